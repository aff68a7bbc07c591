"""Methods on a feature per class: HST, SST and SARB.

Shape legend: ``B`` images, ``C`` classes, ``D`` channels of the maps, ``d`` of class features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relabel.partial.losses import instance_contrast, partial_bce, prototype_contrast
from relabel.partial.methods.base import START, Batches, Method, Setup, plain_classifier
from relabel.partial.networks.blending import Blending
from relabel.partial.networks.prototypes import Examples, Prototypes
from relabel.partial.networks.semantic import SemanticAware
from relabel.partial.networks.transfer import IntraImage, Thresholds, complement
from relabel.partial.settings import LEARNED

# The weights of the losses in the scripts of HST's, SST's and SARB's public code.
PAIRS, CONTRAST, THRESHOLD = 10.0, 0.05, 0.1
# SST's threshold as pseudo-labels start, how far it falls until the end, and where it stops.
_FIRST, _FALL, _LOWEST = 0.95, 0.375, 0.75
_SLOWEST, _TRAVEL = 0.01, 2.0
SARL_RATE = 0.1
"""Learning rate of SARL's layers, relative to the others'."""


class SemanticMethod(Method):
    """A method on SARL, HST's semantic-aware representation, beside a plain classifier.

    A class's logit is SARL's and the plain classifier's. The published networks train the backbone
    under SARL on 80,000 images; on a frozen one SARL's new layers learn a few hundred labels by
    heart. Measured with half of the labels known (MobileNetV2, 100 photos, 20 classes): mAP 45 by
    SARL alone, 66 with the plain classifier beside it and SARL at a tenth of its rate. HST without
    ``plain`` is SARL alone, as published.
    """

    needs_embeddings = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        s = setup.settings
        assert setup.embeddings is not None
        self.classes, self.width, self.seed = len(setup.classes), s.width, s.seed
        self.rate = SARL_RATE * s.lr
        self.net = SemanticAware(
            setup.channels,
            setup.embeddings,
            setup.cooccurrence,
            width=s.width,
            hidden=max(1, s.width // 2),
            learned=s.embeddings == LEARNED,
        )
        self.plain = plain_classifier(setup)
        self.alone = s.method == "hst" and "plain" in s.without
        with torch.no_grad():
            self.net.classifier.weight.zero_()
            self.net.classifier.bias.zero_()
        if self.alone:  # all that is left of the plain classifier is how often classes are present
            self.rate = s.lr
            self.plain.requires_grad_(False)

    def logits(self, maps: Tensor) -> Tensor:
        return self.plain(maps) + self.net(maps)[0]

    def hidden(self, maps: Tensor) -> Tensor:
        features = self.net.features(maps)
        joined = torch.cat([self.net.graph(features), features], dim=2)
        semantic = torch.tanh(self.net.join(joined))
        if self.alone:
            return semantic
        pooled = maps.mean((2, 3))[:, None].expand(-1, self.classes, -1)
        return torch.cat([pooled, semantic], dim=2)

    def last_layer(self) -> tuple[Tensor, Tensor]:
        biases = self.plain.linear.bias + self.net.classifier.bias
        if self.alone:
            return self.net.classifier.weight, biases
        return torch.cat([self.plain.linear.weight, self.net.classifier.weight], dim=1), biases

    def set_last_layer(self, weights: Tensor, biases: Tensor) -> None:
        if self.alone:
            self.net.classifier.weight.data.copy_(weights)
            self.net.classifier.bias.data.copy_(biases - self.plain.linear.bias)
            return
        channels = self.plain.linear.in_features
        self.plain.linear.weight.data.copy_(weights[:, :channels])
        self.net.classifier.weight.data.copy_(weights[:, channels:])
        self.plain.linear.bias.data.copy_(biases - self.net.classifier.bias)

    def own_rates(self) -> list[tuple[nn.Parameter, float]]:
        return [(parameter, self.rate) for parameter in self.net.parameters()]

    def moving_rate(self) -> float:
        """A rate at which Adam can move a number through [0, 1] once pseudo-labels have started."""
        return max(_SLOWEST, _TRAVEL / max(1.0, (1 - START) * self.steps))

    def falling(self, step: int) -> float:
        """SST's threshold at a step: it falls from 0.95 to 0.75."""
        start = START * self.steps
        done = (step - start) / max(1.0, self.steps - start)
        return max(_LOWEST, _FIRST - _FALL * done)

    def collect(self, examples: Examples, batches: Batches) -> None:
        """Features of the classes' known present images, from a pass over the images."""
        examples.added.zero_()
        for maps, known in batches():
            examples.add(self.net.features(maps), known)


class Hst(SemanticMethod):
    """Heterogeneous Semantic Transfer (Chen et al., 2022; see docs of the parts it is made of).

    Known labels are completed within the image (IST) and across images (CST), each by thresholds
    that are learned (DTL), and the network learns from the known labels and from both completions.
    Without DTL the thresholds are SST's.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        without = setup.settings.without
        self.learned = "dtl" not in without
        self.ist = self.cst = None
        if "ist" not in without:
            self.ist = IntraImage(self.width, setup.cooccurrence, max(1, self.width // 2))
            self.ist_threshold = Thresholds(self.classes)
        if "cst" not in without:
            self.cst = Prototypes(self.classes, self.width)
            self.cst_threshold = Thresholds(self.classes)

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        features = self.net.features(maps)
        logits = self.plain(maps) + self.net.classify(features)
        losses = {"bce": partial_bce(logits, known)}
        started = self.started(step)
        if self.ist is not None:
            pairs = self.ist(features, known)
            losses["pairs"] = PAIRS * pairs.loss(known)
            if started:
                threshold = self._threshold(self.ist_threshold, step)
                labels = complement(known, pairs.scores(len(known)), threshold)
                losses["ist"] = partial_bce(logits, labels)
                if self.learned:
                    scores, told = pairs.held_out(known)
                    loss = self.ist_threshold.loss(scores.detach(), told)
                    losses["ist_threshold"] = THRESHOLD * loss
        if self.cst is not None:
            losses["contrast"] = CONTRAST * instance_contrast(features, known)
            if started:
                scores = self.cst.scores(features)
                told = torch.where(self.cst.seen, known, torch.zeros_like(known))
                threshold = self._threshold(self.cst_threshold, step)
                labels = complement(known, scores, threshold)
                losses["cst"] = partial_bce(logits, labels)
                losses["prototypes"] = CONTRAST * prototype_contrast(scores, told)
                if self.learned:
                    loss = self.cst_threshold.loss(scores.detach(), told)
                    losses["cst_threshold"] = THRESHOLD * loss
        return losses

    def _threshold(self, learned: Thresholds, step: int) -> Tensor | float:
        return learned.values if self.learned else self.falling(step)

    def transfers(self, maps: Tensor, known: Tensor) -> dict[str, Tensor]:
        features = self.net.features(maps)
        found = {}
        if self.ist is not None:
            scores = self.ist(features, known).scores(len(known))
            threshold = self._threshold(self.ist_threshold, self.steps)
            found["ist"] = (known == 0) & (scores > threshold)
        if self.cst is not None:
            threshold = self._threshold(self.cst_threshold, self.steps)
            found["cst"] = (known == 0) & (self.cst.scores(features) > threshold)
        return found

    def refresh(self, step: int, batches: Batches) -> None:
        if self.cst is not None:
            examples = Examples(self.classes, self.width).to(self.cst.centres.device)
            self.collect(examples, batches)
            self.cst.fit(examples, self.seed)

    def own_rates(self) -> list[tuple[nn.Parameter, float]]:
        parts = [] if self.ist is None else [self.ist_threshold]
        parts += [] if self.cst is None else [self.cst_threshold]
        return super().own_rates() + [(part.raw, self.moving_rate()) for part in parts]


class Sst(SemanticMethod):
    """Structured Semantic Transfer (Chen et al., AAAI 2022): as HST, with thresholds that fall by a
    schedule, and similarity to known present examples themselves instead of prototypes."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.ist = IntraImage(self.width, setup.cooccurrence, max(1, self.width // 2))
        self.examples = Examples(self.classes, self.width)

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        features = self.net.features(maps)
        logits = self.plain(maps) + self.net.classify(features)
        pairs = self.ist(features, known)
        self.examples.add(features.detach(), known)
        losses = {
            "bce": partial_bce(logits, known),
            "pairs": PAIRS * pairs.loss(known),
            "contrast": CONTRAST * instance_contrast(features, known),
        }
        if self.started(step):
            threshold = self.falling(step)
            scores = {"ist": pairs.scores(len(known)), "cst": self.examples.scores(features)}
            for name, score in scores.items():
                losses[name] = partial_bce(logits, complement(known, score, threshold))
        return losses

    def transfers(self, maps: Tensor, known: Tensor) -> dict[str, Tensor]:
        features = self.net.features(maps)
        threshold = self.falling(self.steps)
        scores = {
            "ist": self.ist(features, known).scores(len(known)),
            "cst": self.examples.scores(features),
        }
        return {name: (known == 0) & (score > threshold) for name, score in scores.items()}


class Sarb(SemanticMethod):
    """Semantic-Aware Representation Blending (Pu et al., AAAI 2022).

    What is blended are SARL's features of a class, and by the same share the plain classifier's
    logits; a prototype's is the mean over the class's known present images.
    """

    typical: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.prototypes = Prototypes(self.classes, self.width)
        self.blending = Blending()
        self.register_buffer("typical", torch.zeros(self.classes))

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        features, plain = self.net.features(maps), self.plain(maps)
        losses = {
            "bce": partial_bce(plain + self.net.classify(features), known),
            "contrast": CONTRAST * instance_contrast(features, known),
        }
        if self.started(step):
            blends = {
                "instances": (*self.blending.instances(features, known), plain.flip(0)),
                "prototypes": (
                    *self.blending.prototypes(features, known, self.prototypes),
                    self.typical.expand_as(plain),
                ),
            }
            for name, (mixed, labels, other) in blends.items():
                share = torch.where(labels != known, labels, torch.zeros_like(labels)).detach()
                blended = torch.lerp(plain, other.to(plain.dtype), share.to(plain.dtype))
                losses[name] = partial_bce(blended + self.net.classify(mixed), labels)
        return losses

    def refresh(self, step: int, batches: Batches) -> None:
        examples = Examples(self.classes, self.width).to(self.prototypes.centres.device)
        self.collect(examples, batches)
        self.prototypes.fit(examples, self.seed)
        total, number = torch.zeros_like(self.typical), torch.zeros_like(self.typical)
        for maps, known in batches():
            total += (self.plain(maps) * (known > 0)).sum(0)
            number += (known > 0).sum(0)
        self.typical.copy_(total / number.clamp(min=1))

    def own_rates(self) -> list[tuple[nn.Parameter, float]]:
        shares = (self.blending.raw_alpha, self.blending.raw_beta)
        return super().own_rates() + [(share, self.moving_rate()) for share in shares]
