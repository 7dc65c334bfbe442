"""What a dataset tells a method about itself: the one object a method is built from.

A spec holds facts of the data (classes, channels, sensor geometry), never choices of a method. It is
frozen and made of plain JSON values, so that a checkpoint can carry it and a trial can be rebuilt from it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Facts that every dataset states.

    dataset: the dataset's name, for messages and drawings only.
    channels: input channels.
    """

    dataset: str
    channels: int = 3

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values, with its class name under `kind`."""
        return {"kind": type(self).__name__, **asdict(self)}

    @staticmethod
    def from_json(document: dict[str, Any]) -> Spec:
        """Rebuild a spec written by `to_json`; a `ValueError` names an unknown kind."""
        fields = dict(document)
        kind = fields.pop("kind", None)
        kinds = {cls.__name__: cls for cls in _subclasses(Spec)}
        if kind not in kinds:
            raise ValueError(f"unknown spec kind {kind!r}; known: {', '.join(sorted(kinds))}")
        return kinds[kind](**{key: _tuples(value) for key, value in fields.items()})


@dataclass(frozen=True, kw_only=True)
class ImageClassesSpec(Spec):
    """Labelled pictures: image classification, retrieval.

    classes: class names in label order.
    image_size: (height, width) in pixels of what the loader serves.
    """

    classes: tuple[str, ...]
    image_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PixelClassesSpec(Spec):
    """Pictures with a class for each pixel.

    classes: class names in label order, background included where the dataset has one.
    ignore_index: label of pixels that count nowhere (255: void and padding).
    palette: RGB 0..255 a class, for drawings.
    """

    classes: tuple[str, ...]
    ignore_index: int = 255
    palette: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class EdgeSpec(Spec):
    """Pictures with boundary maps of several annotators.

    annotators: the largest number of annotators of one picture.
    max_distance: matching tolerance of the benchmark as a fraction of the image diagonal.
    """

    annotators: int
    max_distance: float = 0.0075


@dataclass(frozen=True, kw_only=True)
class LidarSpec(Spec):
    """Spinning-LiDAR scans with a class for each point.

    classes: names in label order; class 0 is `unlabeled` and counts nowhere.
    class_frequency: share of each class among the *training* points (unlabelled included), sums to 1.
    beams, azimuths: rows and columns of the sensor's full range image.
    fov_up, fov_down: vertical field of view in degrees (+3, -25 for the HDL-64E).
    mean, std: of (range, x, y, z, remission) over measured points, in metres (remission 0..1).
    raw_ids: the published raw label id to write for each class.
    palette: RGB 0..255 a class, for drawings.
    """

    classes: tuple[str, ...]
    class_frequency: tuple[float, ...]
    beams: int
    azimuths: int
    fov_up: float
    fov_down: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw_ids: tuple[int, ...]
    palette: tuple[tuple[int, int, int], ...] = ()
    channels: int = 5


@dataclass(frozen=True, kw_only=True)
class SuperResolutionSpec(Spec):
    """Pictures to enlarge, with other pictures of the same thing beside them.

    image_size: (height, width) of the high-resolution pictures; (0, 0) where sizes differ.
    factor: by which height and width are enlarged.
    exemplars: high-resolution exemplars a sample; 0: there are none.
    """

    image_size: tuple[int, int]
    factor: int
    exemplars: int = 0


@dataclass(frozen=True, kw_only=True)
class ShapesSpec(Spec):
    """Silhouettes in classes.

    classes: class names in label order.
    group_size: shapes a class, the query included, where all classes are of one size; 0: they differ.
    """

    classes: tuple[str, ...]
    group_size: int = 0
    channels: int = 1


@dataclass(frozen=True, kw_only=True)
class SceneFlowSpec(Spec):
    """Pairs of point clouds.

    points: points drawn of each cloud; a scene with fewer has all of its own.
    occlusions: whether some points have no valid flow (their mask is 0).
    matched: whether the second cloud holds the very points of the first, moved.
    """

    points: int
    occlusions: bool = False
    matched: bool = False


@dataclass(frozen=True, kw_only=True)
class CaptionsSpec(Spec):
    """Pictures with sentences.

    captions: sentences a picture.
    vocabulary: words of the training sentences, sorted.
    """

    captions: int
    vocabulary: tuple[str, ...]

    @staticmethod
    def words(sentence: str) -> list[str]:
        """A sentence's words in order, in lower case: the one tokenisation of datasets and methods."""
        return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", sentence.lower())


@dataclass(frozen=True, kw_only=True)
class PersonsSpec(Spec):
    """Crops of persons seen by several cameras.

    identities: persons of the training split; their labels are 0..identities-1.
    cameras: number of cameras; their labels are 0..cameras-1.
    image_size: (height, width) of what the loader serves.
    """

    identities: int
    cameras: int
    image_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class EpisodesSpec(Spec):
    """Few-shot episodes.

    ways, shots, queries: classes an episode, support pictures a class, query pictures a class.
    image_size: (height, width) of what the loader serves.
    """

    ways: int
    shots: int
    queries: int
    image_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class BagsSpec(Spec):
    """Bags of pictures with one label each, which the hidden classes of the pictures make by a rule.

    instance_classes: names of the pictures' classes in label order.
    rule: "presence": 1 if each class of `witnesses` occurs, else 0; "count": how many pictures are of the one
        witness class; "mixture": 1 if the pictures are of more than one class, else 0.
    witnesses: labels of the classes that matter; none for "mixture".
    image_size: (height, width) of the pictures.
    mean, std: of the pixels in [0, 1] by channel, as is usual to normalise this dataset with.
    """

    instance_classes: tuple[str, ...]
    rule: Literal["presence", "count", "mixture"]
    witnesses: tuple[int, ...] = ()
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def groups(self) -> tuple[int, ...]:
        """The group of each instance class: kinds of pictures that the bag's label can tell apart.

        Each witness is a group of its own (1, 2, ...), all other classes together are group 0; for "mixture" each
        class is a group.
        """
        if self.rule == "mixture":
            return tuple(range(len(self.instance_classes)))
        return tuple(
            self.witnesses.index(label) + 1 if label in self.witnesses else 0
            for label in range(len(self.instance_classes))
        )


@dataclass(frozen=True, kw_only=True)
class PictureSetsSpec(Spec):
    """Sets of pictures of products, and a catalogue picture of each product.

    image_size: (height, width) of what the loader serves.
    """

    image_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PointClassesSpec(Spec):
    """Point clouds of single objects with a class each.

    classes: class names in label order.
    points: points of a clean cloud.
    conditions: names of the test's conditions, in the order of a sample's `condition`; the first one is `clean`.
    up: the axis (0, 1, 2) that is vertical.
    """

    classes: tuple[str, ...]
    points: int
    conditions: tuple[str, ...] = ("clean",)
    up: int = 2


@dataclass(frozen=True, kw_only=True)
class ObjectPartsSpec(Spec):
    """Point clouds of single objects with a part label for each point.

    categories: names of the objects' categories in label order.
    parts: names of all parts in label order.
    first_part: the first part of each category; a category's parts are consecutive.
    points: points of a cloud.
    up: the axis (0, 1, 2) that is vertical.
    """

    categories: tuple[str, ...]
    parts: tuple[str, ...]
    first_part: tuple[int, ...]
    points: int
    up: int = 1


@dataclass(frozen=True, kw_only=True)
class LidarBoxesSpec(Spec):
    """LiDAR scans with oriented boxes of objects.

    classes: names in label order.
    point_range: (x, y, z, x, y, z) in metres, lower corner then upper: where objects are looked for.
    mean_boxes: (length, width, height, z of the bottom) in metres of each class.
    min_overlaps: the IoU above which a box is a hit, a class.
    min_heights: pixels of image height below which a box doesn't count: at easy, moderate, hard.
    palette: RGB 0..255 a class, for drawings.
    """

    classes: tuple[str, ...]
    point_range: tuple[float, ...]
    mean_boxes: tuple[tuple[float, ...], ...]
    min_overlaps: tuple[float, ...]
    min_heights: tuple[float, ...]
    palette: tuple[tuple[int, int, int], ...] = ()
    channels: int = 4


@dataclass(frozen=True, kw_only=True)
class ZeroShotSpec(Spec):
    """Pictures of classes of which some are never trained on and known by their attributes alone.

    classes: class names in label order: first the `seen` ones, which are trained on, then `held_out` ones, which
        weights may be selected on, then the unseen ones, which are only tested.
    image_size: (height, width) in pixels of what the loader serves.
    attributes: their names. values: strength 0..1 of each attribute (column) in each class (row).
    present: 0 or 1, like `values`, where a dataset publishes such a matrix; else empty.
    parts: names of the parts that people have clicked on; empty where nobody has.
    """

    classes: tuple[str, ...]
    seen: int
    held_out: int = 0
    image_size: tuple[int, int]
    attributes: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    present: tuple[tuple[int, ...], ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PosesSpec(ImageClassesSpec):
    """Pictures of objects in known poses, with a class each.

    yaws, pitches: number of poses on either axis; a pose is a point (yaw, pitch) with yaw in 1..yaws and pitch in
    1..pitches, and pose (yaw, pitch) is number (pitch - 1) * yaws + yaw - 1.
    seen: the numbers of the poses that the training split has of each class, ascending.
    """

    yaws: int
    pitches: int
    seen: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class LandmarksSpec(Spec):
    """Pictures of buildings and places, some of which are asked for.

    image_size: pixels of the longer side of the pictures that validation and test serve; they keep their shapes.
    train_size: side of the square pictures that training serves.
    landmarks: labels of the training split, 0..landmarks-1; 0 where it has none.
    """

    image_size: int
    train_size: int
    landmarks: int = 0


def _subclasses(cls: type[Spec]) -> list[type[Spec]]:
    direct = cls.__subclasses__()
    return [cls, *direct, *(deeper for child in direct for deeper in _subclasses(child)[1:])]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
