"""Overrides that make the matterport preset small."""

SMALL = (
    "model.backbone.width=8",
    "model.neck.out_channels=16",
    "model.proposal_generator.head.conv_dim=16",
    "model.roi_heads.box_head.conv_dim=32",
    "model.roi_heads.mask_head.conv_dim=16",
)
SHAPES = (
    "data.train_dataset={name: Shapes, num_images: 6, seed: 0}",
    "data.test_dataset={name: Shapes, num_images: 4, seed: 1}",
    "data.num_workers=0",
    *(f"data.{kind}_augmentations[0].{side}=128" for kind in ("train", "test") for side in ("min_size", "max_size")),
)
