"""results.json: what `sdclr evaluate` found."""

import dataclasses
import math
from typing import Annotated, Any, ClassVar

from sdclr_jax.records import config
from sdclr_jax.records.groups import GROUPS, SUMMARY, summary
from sdclr_jax.records.record import Count, Object, Record, Share, says

METRICS = ("accuracy", "average_precision")
# What a protocol found where the file does not say: of runs of older versions. A text of one of these names is a
# setting (the loss of a support vector machine); how many images and which are found where a protocol draws some.
_FOUND = ("best_epoch", "l2", "loss", "gradient_norm", "iterations", "all_of_draws", "seconds")
_DRAWING, _DRAWN = {"images_per_class", "share"}, ("images", "list")

Group = Annotated[str, GROUPS.__contains__]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """The checkpoint that was measured."""

    method: str = says("method of the run")
    seed: int = says("seed of the run")
    step: Count = says("steps that the checkpoint had been trained for")
    epoch: float = says("the same in epochs, a fraction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Record):
    """The data that the encoder was measured on."""

    name: str = says("data set")
    subset: str = says("subset that the run trained on")
    split: int = says("number of the published lists, data.split; 0 for none")
    seed: int = says("seed of what was drawn, data.seed")
    provenance: Object | None = says("what the data set was made from; null where that is not known", default=None)
    class_names: tuple[str, ...] = says("name of each class or attribute")
    train_counts: tuple[Count, ...] = says("images of each in the long tail")
    group_rule: str = says("by which rule classes are many, medium and few")
    groups: tuple[Group, ...] = says("many, medium or few, for each")
    lists: dict[str, str] = says("SHA-256 of the sorted ids of each list of images")
    labels: dict[str, str] = says(
        "the same of the ids with their labels; none in files of older versions", default_factory=dict
    )

    @classmethod
    def read_fields(cls, value: dict[str, Any], where: str) -> dict[str, Any]:
        return super().read_fields(config.with_seed(value), where)

    def check(self, where: str) -> None:
        classes = len(self.class_names)
        for name in ("class_names", "train_counts", "groups"):
            if not len(getattr(self, name)) == classes > 0:
                raise ValueError(f"{where}.{name} is not what it should be")
        if not isinstance((self.provenance or {}).get("warning", ""), str):
            raise ValueError(f"{where}.provenance.warning is not what it should be")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features(Record):
    """What is measured of the features of test images themselves."""

    images: Count = says("test images that the rank is of")
    dimensions: Count = says("width of the features")
    effective_rank: float = says("directions that the features use (RankMe, Garrido et al., ICML 2023)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Record):
    """What one protocol found. In the file, the entries of `found` stand among `settings`, and `found` names them; and
    `validation` is `validation_accuracy` or `validation_average_precision`."""

    metric: str = says("accuracy, or average_precision of attributes", default="accuracy")
    settings: Object = says("all that the protocol does, but for what it found")
    found: Object = says("what it chose by validation images or drew, and how its fit ended", default_factory=dict)
    per_class: tuple[Share | None, ...] = says(
        "score of each class, 0 to 1; null for a class or an attribute of no test image"
    )
    all: Share = says("mean over the classes")
    many: Share | None = says("mean over the classes with many training images; null for no class")
    medium: Share | None = says("the same of medium")
    few: Share | None = says("the same of few")
    std: Share | None = says("population standard deviation of the three means")
    validation: Share | None = says("score on validation images; null where the protocol chooses nothing by it")

    @classmethod
    def read_fields(cls, value: dict[str, Any], where: str) -> dict[str, Any]:
        metric = value.get("metric", "accuracy")
        if metric not in METRICS:
            raise ValueError(f"{where}.metric is not what it should be")
        if (name := f"validation_{metric}") not in value:
            raise ValueError(f"it lacks {where}.{name}")
        settings, found = value.get("settings"), value.get("found")
        if isinstance(settings, dict):
            if found is None:
                found = [key for key in _FOUND if key in settings and not isinstance(settings[key], str)]
            if isinstance(found, list) and _DRAWING & settings.keys():
                found = [*found, *(key for key in _DRAWN if key in settings and key not in found)]
            if not isinstance(found, list) or not all(isinstance(key, str) and key in settings for key in found):
                raise ValueError(f"{where}.found is not what it should be")
            value = value | {
                "settings": {key: setting for key, setting in settings.items() if key not in found},
                "found": {key: settings[key] for key in found},
            }
        return super().read_fields(value | {"validation": value[name]}, where)

    def to_json(self) -> Object:
        fields = super().to_json()
        return fields | {
            "settings": self.settings | self.found,
            "found": list(self.found),
            f"validation_{self.metric}": fields.pop("validation"),
        }

    def check_groups(self, groups: tuple[str, ...], where: str) -> None:
        """Raise ValueError where the means are not those of the classes."""
        if len(self.per_class) != len(groups) or all(score is None for score in self.per_class):
            raise ValueError(f"{where}.per_class is not what it should be")
        scores = [math.nan if score is None else score for score in self.per_class]
        for field, expected in summary(scores, groups).items():
            value = getattr(self, field)
            if (value is None) != (expected is None) or not math.isclose(value or 0, expected or 0, abs_tol=1e-6):
                raise ValueError(f"{where}.{field} is not what follows from per_class")

    @property
    def summary(self) -> dict[str, float | None]:
        """`all`, `many`, `medium`, `few` and `std`."""
        return {name: getattr(self, name) for name in SUMMARY}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results(Record):
    """results.json."""

    FORMAT: ClassVar[int] = 1
    # An evaluation keeps what it finds there of other protocols, so a damaged file has to go.
    REMEDY: ClassVar[str] = "delete it and run `sdclr evaluate {folder}` again"

    format: int = says("version of this file", default=FORMAT)
    run: Measured = says("the checkpoint that was measured")
    data: Data = says("the data that it was measured on")
    features: Features | None = says("what is measured of the features themselves", default=None)
    encoder_checksum: int = says("checksum of the dense branch's variables, which older versions compare")
    encoder_sha256: str | None = says("SHA-256 of the same; null where an older version measured some", default=None)
    seen: Object | None = says(
        "what the encoder is given of an image: mean, standard deviation, and of files resize, crop and interpolation; "
        "null where that is not known",
        default=None,
    )
    protocols: dict[str, Score] = says("what each protocol found, by its name")

    def check(self, where: str) -> None:
        if not self.protocols:
            raise ValueError("protocols is not what it should be")
        for name, score in self.protocols.items():
            score.check_groups(self.data.groups, f"protocols.{name}")

    def same_encoder(self, other: "Results") -> bool:
        """Whether both are of one encoder: by the digest, or where one of them has none, by the checksum."""
        if self.encoder_sha256 and other.encoder_sha256:
            return self.encoder_sha256 == other.encoder_sha256
        return self.encoder_checksum == other.encoder_checksum
