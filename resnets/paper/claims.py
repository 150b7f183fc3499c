"""The paper's statements about depth and shortcuts, each with a check on what was run.

How a difference is told from noise is said in `resnets.paper.verdicts`, what is measured for a
statement in `resnets.paper.judges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resnets.paper import judges
from resnets.paper.judges import HEALTHY, OPTIONS, Judge, each, pairs, test_rises, training_rises
from resnets.paper.store import Outcome
from resnets.paper.verdicts import Runs, Verdict

PLAIN = tuple(f"cifar-plain{depth}" for depth in (20, 32, 44, 56))
RESIDUAL = tuple(f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110))
DEEP = ("resnet34-b", "resnet50", "resnet101", "resnet152")


@dataclass(frozen=True)
class Claim:
    """A statement and how to check it.

    Args:
        id: a short name.
        section: of the paper; with "our question" where it asks what the paper leaves open.
        statement: in our own words.
        needs: results on these images; `nothing` if it is checked by counting.
        judge: the check on the results of a group.
    """

    id: str
    section: str
    statement: str
    needs: Literal["nothing", "cifar10", "photos"]
    judge: Judge

    def applies(self, group: str) -> bool:
        """Whether results of a group can tell anything of it."""
        return self.needs == "nothing" or (self.needs == "cifar10") == group.startswith("cifar10-")

    def check(self, outcomes: Sequence[Outcome], group: str = "") -> Verdict:
        """Judge by the results of one group, for example `cifar10-short`, and of its variants.

        Nothing is clear if these were trained for different lengths.

        Raises:
            UserError: if a result lacks what it must hold.
        """
        if not self.applies(group):
            return Verdict("not run", f"needs results on {self.needs}")
        runs = Runs(outcomes, group)
        verdict = self.judge(runs)
        if self.needs == "nothing" or verdict.state == "not run":
            return verdict
        state, evidence = verdict.state, f"{verdict.evidence} [{runs.budget()}]"
        if len(runs.lengths()) > 1:
            state, evidence = "not clear", f"trainings of different lengths: {evidence}"
        return Verdict(state, evidence)


def claims() -> list[Claim]:
    """All statements, in the paper's order."""
    return list(CLAIMS)


_TWINS = tuple(zip(RESIDUAL, PLAIN, strict=False))

CLAIMS = (
    Claim("degradation", "1", "A plain network of 56 layers has a higher training and test error "
          "than one of 20.", "cifar10",
          each(training_rises(PLAIN[0], PLAIN[-1]), test_rises(PLAIN[0], PLAIN[-1]))),
    Claim("construction", "1", "A deeper network that does as well as a shallow one exists: its "
          "further layers are identities.", "cifar10", judges.exists),
    Claim("construction-missed", "1", "From scratch, SGD finds a worse solution for the deeper "
          "plain network than the constructed one.", "cifar10", judges.missed),
    Claim("construction-kept-plain", "1, our question", "SGD that goes on from the constructed "
          "plain network ends no worse than the shallow one.", "cifar10",
          judges.kept("cifar-plain56")),
    Claim("construction-kept-residual", "1, our question", "SGD that goes on from the constructed "
          "residual network ends no worse than the shallow one.", "cifar10",
          judges.kept("cifar-resnet56")),
    Claim("cost-34", "3.3", "The network of 34 layers costs 18 % of VGG-19.", "nothing",
          judges.cost_of_34),
    Claim("twins", "3.3", "Plain networks and residual ones with option A have as many layers, "
          "parameters and multiply-adds.", "nothing", judges.equal_twins),
    Claim("plain-34-training", "4.1", "A plain network of 34 layers has a higher training error "
          "than one of 18.", "photos", training_rises("plain18", "plain34")),
    Claim("plain-34-validation", "4.1", "A plain network of 34 layers has a higher validation "
          "error than one of 18.", "photos", test_rises("plain18", "plain34")),
    Claim("signals-forward", "4.1", "Signals do not die on their way through plain networks with "
          "BN: every layer's response varies.", "cifar10", judges.signals(judges.forward)),
    Claim("signals-backward", "4.1", "Gradients in plain networks with BN are healthy: those of "
          f"all layers lie within a factor of {HEALTHY}.", "cifar10",
          judges.signals(judges.gradients)),
    Claim("resnet-34", "4.1", "ResNet-34 has a lower training and validation error than "
          "ResNet-18.", "photos",
          each(training_rises("resnet34-a", "resnet18-a"), test_rises("resnet34-a", "resnet18-a"))),
    Claim("residual-34", "4.1", "ResNet-34 has a lower training and validation error than its "
          "plain twin.", "photos",
          each(training_rises("resnet34-a", "plain34"), test_rises("resnet34-a", "plain34"))),
    Claim("residual-18", "4.1", "Of 18 layers, the plain and the residual network are similarly "
          "accurate.", "photos", judges.alike("resnet18-a", "plain18")),
    Claim("residual-18-faster", "4.1", "ResNet-18 needs fewer iterations to the error that "
          "plain-18 has half-way.", "photos", judges.faster),
    Claim("options-beat-plain", "4.1", "With each of the options A, B and C, 34 layers are better "
          "than without shortcuts.", "photos",
          pairs(test_rises, *((option, "plain34") for option in OPTIONS))),
    Claim("options-differ-little", "4.1", "Options A, B and C differ little: by less than half of "
          "what A gains.", "photos", judges.options_differ_little),
    Claim("options-order", "4.1", "Option B is slightly better than A, and C than B.", "photos",
          test_rises(*reversed(OPTIONS))),
    Claim("deeper-validation", "4.1", "ResNets of 34, 50, 101 and 152 layers are the better the "
          "deeper.", "photos", test_rises(*reversed(DEEP))),
    Claim("deeper-training", "4.1", "Up to 152 layers there is no degradation: the training error "
          "falls with depth.", "photos", training_rises(*reversed(DEEP[1:]))),
    Claim("cost-152", "4.1", "ResNet-152 costs less than VGG-16 and VGG-19.", "nothing",
          judges.cost_of_152),
    Claim("plain-depth", "4.2", "Plain networks have a higher training error the deeper they are: "
          "20, 32, 44, 56 layers.", "cifar10", training_rises(*PLAIN)),
    Claim("plain-depth-test", "4.2", "Plain networks have a higher test error the deeper they "
          "are: 20, 32, 44, 56 layers.", "cifar10", test_rises(*PLAIN)),
    Claim("plain-110", "4.2", "A plain network of 110 layers does not train: its error stays above "
          "60 %.", "cifar10", judges.plain_110),
    Claim("residual-depth", "4.2", "ResNets have a lower test error the deeper they are: 20, 32, "
          "44, 56, 110 layers.", "cifar10", test_rises(*reversed(RESIDUAL))),
    Claim("residual-depth-training", "4.2", "ResNets have a lower training error the deeper "
          "they are: 20, 32, 44, 56, 110 layers.", "cifar10",
          training_rises(*reversed(RESIDUAL))),
    Claim("residual-beats-plain", "4.2", "At each of 20, 32, 44 and 56 layers the residual network "
          "has the lower test error.", "cifar10", pairs(test_rises, *_TWINS)),
    Claim("start-late", "4.2", "ResNet-110 begins late at the full rate: only after several epochs "
          "is its training error below 90 %.", "cifar10", judges.starts_late),
    Claim("start-similar", "4.2", "ResNet-110 becomes similarly accurate without a gentle "
          "start.", "cifar10", judges.still_similar),
    Claim("thin", "4.2", "ResNet-110 has fewer parameters than the FitNet and the Highway network "
          "of 19 layers, and a lower error.", "cifar10", judges.thin_and_better),
    Claim("responses-residual", "4.2", "ResNets' layers respond less than those of their plain "
          "twins.", "cifar10", pairs(judges.responses, *(_TWINS[i] for i in (0, 3)))),
    Claim("responses-depth", "4.2", "The deeper a ResNet, the less a layer responds.", "cifar10",
          judges.responses("cifar-resnet110", "cifar-resnet56", "cifar-resnet20")),
    Claim("thousand-trains", "4.2", "A ResNet of 1202 layers trains to an error below 0.1 %.",
          "cifar10", judges.thousand_trains),
    Claim("thousand-overfits", "4.2", "ResNet-1202 tests worse than ResNet-110.", "cifar10",
          test_rises("cifar-resnet110", "cifar-resnet1202")),
)  # fmt: skip
