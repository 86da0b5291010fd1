"""What the walk is told by hand: arguments that a transform cannot do without, and reasons.

Everything else about the transforms is found (walk.py).
"""

from __future__ import annotations

from typing import Any

ARGUMENTS: dict[str, dict[str, Any]] = {
    "albumentations.Affine": {"rotate": [-20, 20], "scale": [0.8, 1.2], "shear": [-9, 9]},
    "albumentations.AtLeastOneBBoxRandomCrop": {"height": 24, "width": 28},
    "albumentations.CLAHE": {"clip_limit": [1.0, 9.0], "tile_grid_size": [2, 2]},
    "albumentations.CenterCrop": {"height": 24, "width": 28},
    "albumentations.ConstrainedCoarseDropout": {
        **{"mask_indices": [1], "hole_height_range": [0.3, 0.5], "hole_width_range": [0.3, 0.5]}
    },
    "albumentations.Crop": {"x_min": 4, "y_min": 3, "x_max": 34, "y_max": 29},
    "albumentations.CropAndPad": {"percent": [-0.1, 0.1, 0.1, -0.1]},
    "albumentations.CropNonEmptyMaskIfExists": {"height": 24, "width": 28},
    "albumentations.Downscale": {"scale_range": [0.3, 0.9]},
    "albumentations.ElasticTransform": {"alpha": 60, "sigma": 6},
    "albumentations.FrequencyMasking": {"freq_mask_param": 10},
    "albumentations.GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 3},
    "albumentations.LongestMaxSize": {"max_size": 30},
    "albumentations.Pad": {"padding": [2, 3, 4, 5]},
    "albumentations.PadIfNeeded": {"min_height": 40, "min_width": 48},
    "albumentations.Posterize": {"num_bits": [1, 6]},
    "albumentations.RandomCrop": {"height": 24, "width": 28},
    "albumentations.RandomResizedCrop": {"size": [24, 28]},
    "albumentations.RandomSizedBBoxSafeCrop": {"height": 24, "width": 28},
    "albumentations.RandomSizedCrop": {"min_max_height": [20, 30], "size": [24, 28]},
    "albumentations.RandomSnow": {"snow_point_range": [0.2, 0.9]},
    "albumentations.Resize": {"height": 24, "width": 28},
    "albumentations.SmallestMaxSize": {"max_size": 24},
    "albumentations.Solarize": {"threshold_range": [0.1, 0.9]},
    "albumentations.TimeMasking": {"time_mask_param": 10},
    "albumentations.XYMasking": {
        **{"num_masks_x": 1, "num_masks_y": 1, "mask_x_length": 4, "mask_y_length": 4}
    },
    "torchvision.CenterCrop": {"size": [24, 28]},
    "torchvision.ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "torchvision.ElasticTransform": {"sigma": 3.0},
    "torchvision.GaussianBlur": {"kernel_size": 5},
    "torchvision.JPEG": {"quality": [30, 60]},
    "torchvision.Pad": {"padding": 3},
    "torchvision.RandomAdjustSharpness": {"sharpness_factor": 2.0},
    "torchvision.RandomAffine": {"degrees": 20, "translate": [0.1, 0.1]},
    "torchvision.RandomCrop": {"size": [24, 28]},
    "torchvision.RandomPosterize": {"bits": 3},
    "torchvision.RandomResize": {"min_size": 20, "max_size": 40},
    "torchvision.RandomResizedCrop": {"size": [24, 28]},
    "torchvision.RandomRotation": {"degrees": 20},
    "torchvision.RandomShortestSize": {"min_size": [20, 24, 28]},
    "torchvision.RandomSolarize": {"threshold": 128},
    "torchvision.Resize": {"size": [24, 28]},
    "torchvision.ScaleJitter": {"target_size": [30, 30]},
    "kornia.CenterCrop": {"size": [24, 28]},
    "kornia.ColorJiggle": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
    "kornia.ColorJitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
    "kornia.LongestMaxSize": {"max_size": 30},
    "kornia.PadTo": {"size": [40, 48]},
    "kornia.RandomAffine": {"degrees": 20.0, "translate": [0.1, 0.1]},
    "kornia.RandomBrightness": {"brightness": [0.7, 1.3]},
    "kornia.RandomClahe": {"clip_limit": [1.0, 40.0]},
    "kornia.RandomContrast": {"contrast": [0.7, 1.3]},
    "kornia.RandomCrop": {"size": [24, 28]},
    "kornia.RandomElasticTransform": {"kernel_size": [9, 9], "sigma": [4.0, 4.0]},
    "kornia.RandomFisheye": {
        **{"center_x": [-0.3, 0.3], "center_y": [-0.3, 0.3], "gamma": [0.9, 1.1]}
    },
    "kornia.RandomGamma": {"gamma": [0.7, 1.3]},
    "kornia.RandomGaussianBlur": {"kernel_size": [5, 5], "sigma": [0.1, 2.0]},
    "kornia.RandomHue": {"hue": [-0.2, 0.2]},
    "kornia.RandomJPEG": {"jpeg_quality": [30.0, 60.0]},
    "kornia.RandomMotionBlur": {"kernel_size": [3, 7], "angle": 35.0, "direction": 0.5},
    "kornia.RandomRain": {"number_of_drops": [10, 20], "drop_height": [2, 5]},
    "kornia.RandomResizedCrop": {"size": [24, 28]},
    "kornia.RandomRotation": {"degrees": 20.0},
    "kornia.RandomRotation90": {"times": [1, 3]},
    "kornia.RandomSaturation": {"saturation": [0.5, 1.5]},
    "kornia.RandomShear": {"shear": 10.0},
    "kornia.RandomSnow": {"snow_coefficient": [0.3, 0.6]},
    "kornia.RandomTranslate": {"translate_x": [-0.2, 0.2], "translate_y": [-0.2, 0.2]},
    "kornia.Resize": {"size": [24, 28]},
    "kornia.SmallestMaxSize": {"max_size": 24},
}

_BASE = "a base class"
_VOLUME = "works on volumes"
_OTHERS = "needs other images beside this one"
_LEVELS = "leaves grey levels: use normalize or to_float, at the end"
_FORMAT = "changes the form of its input, which is our part"
_FUNCTION = "takes a function, which a recipe cannot hold"
_CHANNELS = "changes the number of channels"
_MIX = "mixes images and labels"
_SEVERAL = "makes several images of one"
_DATA = "needs data of each image that a recipe cannot name"
_LABELS = "drops boxes whose labels stay with the caller: boxes.min_area and min_visibility do that"


def _each(library: str, reason: str, names: str) -> dict[str, str]:
    return {f"{library}.{name}": reason for name in names.split()}


LEFT_OUT: dict[str, str] = {
    **_each(
        "albumentations",
        _BASE,
        "BaseCompose BasicTransform DualTransform ImageOnlyTransform Transform3D",
    ),
    **_each(
        "albumentations",
        _VOLUME,
        "CenterCrop3D CoarseDropout3D CubicSymmetry Pad3D PadIfNeeded3D RandomCrop3D",
    ),
    **_each("albumentations", _OTHERS, "FDA HistogramMatching PixelDistributionAdaptation Mosaic"),
    **_each("albumentations", _OTHERS, "OverlayElements"),
    **_each("albumentations", _LEVELS, "Normalize ToFloat FromFloat"),
    **_each("albumentations", _FORMAT, "ToTensor3D ToTensorV2"),
    **_each("albumentations", _FUNCTION, "Lambda"),
    **_each("albumentations", _CHANNELS, "ToRGB"),
    **_each("albumentations", _DATA, "RandomCropNearBBox TextImage"),
    **_each("albumentations", "a composition: list the ops instead", "Compose ReplayCompose"),
    **_each("albumentations", "a composition: use one_of", "OneOf OneOrOther"),
    **_each("albumentations", "a composition: use some_of", "SomeOf"),
    **_each("albumentations", "a composition: use sequence", "Sequential"),
    **_each("albumentations", "a composition: use shuffle", "RandomOrder"),
    **_each("albumentations", "a composition of transforms", "SelectiveChannelTransform"),
    **_each("torchvision", _BASE, "Transform"),
    **_each("torchvision", "a composition: list the ops instead", "Compose"),
    **_each("torchvision", "a composition: use sequence with p", "RandomApply"),
    **_each("torchvision", "a composition: use one_of", "RandomChoice"),
    **_each("torchvision", "a composition: use shuffle", "RandomOrder"),
    **_each("torchvision", _FUNCTION, "Lambda"),
    **_each("torchvision", _MIX, "CutMix MixUp"),
    **_each("torchvision", _LEVELS, "ConvertImageDtype Normalize ToDtype"),
    **_each("torchvision", "needs a matrix over all pixels", "LinearTransformation"),
    **_each(
        "torchvision",
        _FORMAT,
        "ConvertBoundingBoxFormat PILToTensor SetClampingMode ToImage ToPILImage ToPureTensor "
        "ToTensor ClampBoundingBoxes ClampKeyPoints",
    ),
    **_each("torchvision", _LABELS, "SanitizeBoundingBoxes SanitizeKeyPoints"),
    **_each("torchvision", _SEVERAL, "FiveCrop TenCrop"),
    **_each("torchvision", "works on videos", "UniformTemporalSubsample"),
    **_each("torchvision", _CHANNELS, "Grayscale RGB"),
    **_each(
        "kornia",
        _BASE,
        "AugmentationBase2D AugmentationBase3D GeometricAugmentationBase2D "
        "GeometricAugmentationBase3D IntensityAugmentationBase2D IntensityAugmentationBase3D "
        "MixAugmentationBaseV2 PolicyAugmentBase PolicySequential RigidAffineAugmentationBase2D "
        "RigidAffineAugmentationBase3D",
    ),
    **_each(
        "kornia",
        _VOLUME,
        "CenterCrop3D RandomAffine3D RandomCrop3D RandomDepthicalFlip3D RandomEqualize3D "
        "RandomHorizontalFlip3D RandomMotionBlur3D RandomPerspective3D RandomRotation3D "
        "RandomTransplantation3D RandomVerticalFlip3D",
    ),
    **_each(
        "kornia",
        "a composition: list the ops instead",
        "AugmentationSequential ImageSequential PatchSequential VideoSequential "
        "ManyToManyAugmentationDispather ManyToOneAugmentationDispather",
    ),
    **_each(
        "kornia", _MIX, "PatchMix RandomCutMixV2 RandomMixUpV2 RandomMosaic RandomTransplantation"
    ),
    **_each("kornia", "a policy of Kornia's own: use auto_augment", "AutoAugment"),
    **_each("kornia", "a policy of Kornia's own: use rand_augment", "RandAugment"),
    **_each("kornia", "a policy of Kornia's own: use trivial_augment", "TrivialAugment"),
    **_each("kornia", _LEVELS, "Denormalize Normalize"),
    **_each("kornia", "needs a diffusion model from the network", "RandomDissolving"),
}
