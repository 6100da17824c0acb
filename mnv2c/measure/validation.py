"""What ``mnv2c validate`` found: the values, the verdict, and both as text and JSON.

What comes in: a ``Comparison`` per image and output, and the noise where it was measured. What goes out: ``passed``,
``to_json``, ``format_text``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mnv2c.measure.layers import LayerComparison, largest
from mnv2c.measure.noise import allowed
from mnv2c.precision import Precision

SHOWN = 20
"""How many comparisons the text lists: the worst, where there are more."""


@dataclass(frozen=True)
class Comparison:
    """One output for one image, given as floats and as bytes: the worse of the two.

    ``max_abs_error`` is in the output's own unit, ``relative_error`` is that over the reference's largest absolute
    value. The gaps tell how far apart, in the reference, the classes are that stand at the same rank of the first one
    or five: 0 where they are the same; None where the output has no classes.
    """

    image: str
    output: str
    max_abs_error: float
    relative_error: float
    cosine: float
    top1_gap: float | None
    top5_gap: float | None


@dataclass(frozen=True)
class Validation:
    """All images; ``runner`` is as it was asked for, ``processor`` what the library ran on.

    ``noise`` has for each output what the precision leaves open there (``measure.noise``); it is empty where every
    error was within the tolerance, or where the tolerance was given.
    """

    directory: str
    runner: str | None
    processor: str
    reference: str
    precision: Precision
    instruction_set: str
    threads: int
    tolerance: float
    comparisons: tuple[Comparison, ...]
    noise: Mapping[str, float]
    layers: tuple[LayerComparison, ...] = ()

    @property
    def inputs(self) -> int:
        """How many images were compared."""
        return sum(comparison.output == self.comparisons[0].output for comparison in self.comparisons)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Their names, in the library's order."""
        return tuple(dict.fromkeys(comparison.output for comparison in self.comparisons))

    @property
    def max_abs_error(self) -> float:
        """Over all images and outputs; NaN where one is."""
        return largest([comparison.max_abs_error for comparison in self.comparisons])

    @property
    def passed(self) -> bool:
        """No output is further off than allowed, and the best five classes are the same but for ties."""
        return all(self._within(one, one.max_abs_error) and self.same_top5(one) for one in self.comparisons)

    @property
    def first_diverging(self) -> LayerComparison | None:
        """The first layer to run that is off; ``None`` also where layers were not asked for."""
        return next((layer for layer in self.layers if layer.diverges(self.tolerance)), None)

    def allowed(self, output: str) -> float:
        """How far ``output`` may be off, and how far apart the logits of two classes that may change places."""
        return allowed(self.tolerance, self.noise.get(output, 0.0))

    def same_top1(self, comparison: Comparison) -> bool:
        """Whether the best class is the same, or a tie; so is what has no classes."""
        return comparison.top1_gap is None or self._within(comparison, comparison.top1_gap)

    def same_top5(self, comparison: Comparison) -> bool:
        """The same of the best five, in their order."""
        return comparison.top5_gap is None or self._within(comparison, comparison.top5_gap)

    def _within(self, comparison: Comparison, error: float) -> bool:
        return error <= self.allowed(comparison.output)


def to_json(validation: Validation) -> dict[str, Any]:
    """What ``validate --json`` prints. Agreements are shares of the images, null where no output has classes."""
    comparisons = validation.comparisons
    classified = [one for one in comparisons if one.top1_gap is not None]
    fields: dict[str, Any] = {
        "directory": validation.directory,
        "runner": validation.runner,
        "processor": validation.processor,
        "reference": validation.reference,
        "precision": validation.precision,
        "instruction_set": validation.instruction_set,
        "threads": validation.threads,
        "tolerance": validation.tolerance,
        "allowed": {output: validation.allowed(output) for output in validation.outputs},
        "passed": validation.passed,
        "inputs": validation.inputs,
        "max_abs_error": validation.max_abs_error,
        "relative_error": largest([comparison.relative_error for comparison in comparisons]),
        "cosine": min(comparison.cosine for comparison in comparisons),
        "top1_agreement": _share(validation.same_top1(one) for one in classified),
        "top5_agreement": _share(validation.same_top5(one) for one in classified),
        "comparisons": [_comparison_json(validation, one) for one in comparisons],
    }
    if validation.layers:
        first = validation.first_diverging
        fields["layers"] = [asdict(layer) for layer in validation.layers]
        fields["first_diverging_layer"] = first.name if first else None
    return fields


def _comparison_json(validation: Validation, comparison: Comparison) -> dict[str, Any]:
    classified = comparison.top1_gap is not None
    return {
        "name": comparison.image,
        "output": comparison.output,
        "max_abs_error": comparison.max_abs_error,
        "relative_error": comparison.relative_error,
        "cosine": comparison.cosine,
        "top1": validation.same_top1(comparison) if classified else None,
        "top5": validation.same_top5(comparison) if classified else None,
    }


def _share(agreements: Iterable[bool]) -> float | None:
    agreed = list(agreements)
    return sum(agreed) / len(agreed) if agreed else None


def format_text(validation: Validation) -> str:
    """What ``validate`` prints for people."""
    lines = _comparison_lines(validation)
    if validation.layers:
        lines += ["", *_layer_lines(validation)]
    verdict = "passed" if validation.passed else "FAILED"
    lines += [
        "",
        f"{verdict}: {validation.inputs} inputs, as floats and as bytes, {validation.precision}, instruction set "
        f"{validation.instruction_set}, threads {validation.threads}, on {validation.processor}, against "
        f"{validation.reference}",
        *(_output_line(validation, output) for output in validation.outputs),
    ]
    return "\n".join(lines)


def _comparison_lines(validation: Validation) -> list[str]:
    """A line per comparison, or the worst, measured by what is allowed: the images as they came."""
    every = validation.comparisons
    shown = every
    if len(every) > SHOWN:
        worst = sorted(every, key=lambda one: _badness(validation, one), reverse=True)[:SHOWN]
        shown = tuple(worst)
    several = len(validation.outputs) > 1
    names = [f"{one.image}, {one.output}" if several else one.image for one in shown]
    width = max(map(len, names))
    lines = [f"{'input':{width}}  max abs error  relative    cosine      top-1  top-5"]
    for name, one in zip(names, shown, strict=True):
        agree = "  ".join(_agreement(validation, one))
        numbers = f"{one.max_abs_error:13.2e}  {one.relative_error:8.1e}  {one.cosine:.8f}  {agree}"
        lines.append(f"{name:{width}}  {numbers}".rstrip())
    if len(shown) < len(every):
        lines.append(f"the {len(shown)} worst of {len(every)}; --json has all")
    return lines


def _badness(validation: Validation, comparison: Comparison) -> tuple[bool, float]:
    """Larger is worse, NaN and other classes the worst."""
    share = comparison.max_abs_error / validation.allowed(comparison.output)
    return not validation.same_top5(comparison), share if share == share else float("inf")


def _agreement(validation: Validation, comparison: Comparison) -> list[str]:
    if comparison.top1_gap is None:
        return []
    return ["same " if same(comparison) else "OTHER" for same in (validation.same_top1, validation.same_top5)]


def _output_line(validation: Validation, output: str) -> str:
    """Its error and what is allowed, and why where that is more than the tolerance."""
    ours = [one for one in validation.comparisons if one.output == output]
    error, most = largest([one.max_abs_error for one in ours]), validation.allowed(output)
    name = f"{output}: " if len(validation.outputs) > 1 else ""
    line = f"  {name}max abs error {error:.2e} (at most {most:.3g}"
    if most > validation.tolerance:
        line += f", not {validation.tolerance:g}: the last bit of the weights makes {validation.noise[output]:.2g}"
    line += ")"
    if ours[0].top1_gap is not None:
        top1, top5 = (sum(map(same, ours)) / len(ours) for same in (validation.same_top1, validation.same_top5))
        line += f", top-1 agreement {top1:.1%}, top-5 agreement {top5:.1%}"
    return line


def _layer_lines(validation: Validation) -> list[str]:
    first = validation.first_diverging
    lines = [f"{'layer':16}  {'edge of the reference':22}  max abs error  largest value"]
    for layer in validation.layers:
        mark = "  <- diverges" if layer.diverges(validation.tolerance) else ""
        lines.append(f"{layer.name:16}  {layer.edge:22}  {layer.error:13.2e}  {layer.largest:13.3f}{mark}")
    lines.append(f"first layer that diverges: {first.name if first else 'none'}")
    return lines
