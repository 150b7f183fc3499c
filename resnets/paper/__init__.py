"""The paper's experiments: what they need, how they run, and how results compare with the paper.

Read the modules in this order:

- `numbers`: the paper's numbers, and the cost of each network, as data.
- `experiments`: the table of experiments, with their networks, jobs and sections of the report.
- `jobs`: the commands of this package that experiments consist of.
- `workload`, `runner`: which jobs are missing, how long they take, and running them, here or on
  a cluster (`ray_launcher`).
- `store`, `results`: result files, and all of them by group, network and seed.
- `verdicts`, `claims`: comparisons that allow for noise, and the paper's statements.
- `tables`, `figures`, `report`, `document`: the report, as HTML and as Markdown.
"""
