"""The command line: `resnets VERB`.

`main` has the list of verbs and turns mistakes into one line. Each verb is a function in a module
of its own: its parameters are the flags, its docstring is the help. Modules of verbs import what
is slow to import inside the function, so that `resnets --help` is quick. `options` holds flags
that verbs share; `console`, `training_progress` and `paper_progress` what they print.
"""
