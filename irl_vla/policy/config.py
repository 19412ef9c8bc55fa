"""Configuration of the scene encoder: sensors, bird's-eye-view grid, semantic reasoning and 3D reasoning."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from irl_vla.config import Config
from irl_vla.dataset.config import SensorConfig

MAX_SCENE_TOKENS = 192  # the token bank's row


class GridConfig(Config):
    """Bird's-eye-view grid in the ego frame; rows run along x (rear to front), columns along y (right to left)."""

    x_min_m: float = -16.0
    x_max_m: float = 48.0
    y_min_m: float = -32.0
    y_max_m: float = 32.0
    cell_m: PositiveFloat = 1.0

    @property
    def rows(self) -> int:
        """Number of cells along x."""
        return round((self.x_max_m - self.x_min_m) / self.cell_m)

    @property
    def columns(self) -> int:
        """Number of cells along y."""
        return round((self.y_max_m - self.y_min_m) / self.cell_m)

    @model_validator(mode="after")
    def _whole_cells(self) -> Self:
        for axis, low, high, count in (
            ("x", self.x_min_m, self.x_max_m, self.rows),
            ("y", self.y_min_m, self.y_max_m, self.columns),
        ):
            if count < 1 or abs(count * self.cell_m - (high - low)) > 1e-6:
                raise ValueError(f"{axis} range [{low}, {high}] m must be a positive multiple of cell_m={self.cell_m}")
            if count % 4:
                raise ValueError(f"{count} cells along {axis}: must be a multiple of 4, features halve twice")
        return self


class CameraConfig(Config):
    """Images that the encoder takes: these cameras in this order, all of this size."""

    names: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    height_px: PositiveInt = 108
    width_px: PositiveInt = 192

    @model_validator(mode="after")
    def _some_once(self) -> Self:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"names must be one or more different cameras, found {self.names}")
        return self


class LidarConfig(Config):
    """Raster of LiDAR sweeps; two or more sweeps let the network see velocities.

    Attributes:
        sweep_indices: history frames to draw, oldest first; 3 is the current one, one frame is 0.5 s. Velocity is
            learned fastest from neighbouring frames, in which an object's two outlines lie close together.
        cells_per_bev_cell: raster cells along one BEV cell; 2 keeps positions inside a cell visible.
        min_z_m, max_z_m: heights kept.
        obstacle_min_z_m: points above count as obstacle in the density channel, so that ground does not drown them.
        max_intensity: intensity drawn as 1.
        max_points_per_cell: density drawn as 1 (on a logarithmic scale).
    """

    sweep_indices: tuple[int, ...] = (2, 3)
    cells_per_bev_cell: Literal[1, 2] = 2
    min_z_m: float = -1.5
    max_z_m: float = 3.5
    obstacle_min_z_m: float = 0.4
    max_intensity: PositiveFloat = 255.0
    max_points_per_cell: PositiveInt = 63

    @property
    def channels(self) -> int:
        """Density, height and intensity of every sweep."""
        return 3 * len(self.sweep_indices)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.sweep_indices or list(self.sweep_indices) != sorted(set(self.sweep_indices)):
            raise ValueError(f"sweep_indices must rise strictly, found {self.sweep_indices}")
        if not (self.sweep_indices[0] >= 0 and self.sweep_indices[-1] <= 3):
            raise ValueError(f"sweep_indices must lie in 0..3 (four history frames), found {self.sweep_indices}")
        if not self.min_z_m < self.obstacle_min_z_m < self.max_z_m:
            raise ValueError("heights must satisfy min_z_m < obstacle_min_z_m < max_z_m")
        return self


class LanguageConfig(Config):
    """Language model and tokeniser: built from this section and trained from scratch, or a local pretrained folder.

    Attributes:
        model_path: folder with a transformers checkpoint and ``tokenizer.json``; None builds a small model.
        lora_rank: rank of the adapters that are trained in a pretrained model (its own weights stay frozen).
        family, width, layers, heads, key_value_heads, feed_forward: the small model.
        vocabulary_size: upper bound of the byte-level BPE vocabulary trained on ``corpus`` and the answers.
        corpus: texts that the tokeniser should compress well; any other text still encodes, as bytes.
        max_instruction_tokens: instructions are padded to this length; a longer one is an error.
        speed_actions, path_actions: words of the meta-action answer, in the order of the target indices.
    """

    model_path: Path | None = None
    lora_rank: PositiveInt = 8
    family: Literal["qwen2", "llama"] = "qwen2"
    width: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    key_value_heads: PositiveInt = 2
    feed_forward: PositiveInt = 512
    vocabulary_size: int = Field(default=512, ge=272)
    corpus: tuple[str, ...] = (
        "What is your driving decision for the next four seconds? The ego vehicle drives at 0.0 m/s.",
        " Command: left. Command: straight. Command: right. Command: unknown.",
    )
    max_instruction_tokens: PositiveInt = 32
    speed_actions: tuple[str, ...] = ("keep", "accelerate", "decelerate", "stop")
    path_actions: tuple[str, ...] = ("straight", "left", "right", "lane change left", "lane change right")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.width % self.heads or self.heads % self.key_value_heads:
            raise ValueError("width must be a multiple of heads, and heads of key_value_heads")
        for name in ("speed_actions", "path_actions"):
            words = getattr(self, name)
            if not words or len(set(words)) != len(words):
                raise ValueError(f"{name} must be one or more different words, found {words}")
        return self


class SemanticConfig(Config):
    """Semantic reasoning: vision transformer, driving vision adaptor, language model.

    Attributes:
        vision_model_path: folder with a pretrained transformers vision model; None builds a small ViT.
        vision_width, vision_layers, vision_heads: the small ViT.
        patch_height_px, patch_width_px: its patches; must divide the image.
        adaptor_queries: learned queries that condense all cameras into so many language-model inputs.
        meta_tokens: learned slots before the answer whose hidden states become the meta tokens.
    """

    vision_model_path: Path | None = None
    vision_width: PositiveInt = 64
    vision_layers: PositiveInt = 2
    vision_heads: PositiveInt = 4
    patch_height_px: PositiveInt = 18
    patch_width_px: PositiveInt = 16
    adaptor_queries: PositiveInt = 8
    meta_tokens: PositiveInt = 8
    language: LanguageConfig = LanguageConfig()


class PerceptionConfig(Config):
    """3D reasoning: image backbone, lifting to the grid, fusion with LiDAR, detection and map heads.

    Attributes:
        image_backbone_path: folder with a pretrained transformers backbone; None builds a small convolutional one.
        image_channels: channels of its stages; the first at a quarter of the resolution, each further one halves it.
        pillar_heights_m: heights over each cell of the coarse grid at which image features are sampled.
        fine_channels: channels of the LiDAR features and the map of heads, at grid resolution.
        coarse_channels: channels at half of it, where camera and LiDAR are fused.
        deep_channels, deep_blocks: channels and residual blocks at a quarter of it, where a cell sees the whole scene.
        object_tokens: highest peaks of the detection head that become tokens.
        motion_modes: futures that are predicted for each object.
        bev_tokens, map_tokens: (rows, columns) of token patches; must divide half of the grid.
        map_classes: number of raster classes of the map head.
        max_boxes: rows of the padded box targets.
    """

    image_backbone_path: Path | None = None
    image_channels: tuple[PositiveInt, ...] = Field(default=(32, 48), min_length=1)
    pillar_heights_m: tuple[float, ...] = (0.0, 1.0)
    fine_channels: PositiveInt = 32
    coarse_channels: PositiveInt = 48
    deep_channels: PositiveInt = 64
    deep_blocks: PositiveInt = 2
    object_tokens: PositiveInt = 30
    motion_modes: PositiveInt = 3
    bev_tokens: tuple[PositiveInt, PositiveInt] = (8, 8)
    map_tokens: tuple[PositiveInt, PositiveInt] = (8, 4)
    map_classes: PositiveInt = 7
    max_boxes: PositiveInt = 64


class LossWeights(Config):
    """Weights of the encoder's losses in the imitation loss; ``velocity`` is apart from the other values of a box."""

    heatmap: NonNegativeFloat = 1.0
    box: NonNegativeFloat = 2.0
    velocity: NonNegativeFloat = 1.0
    map: NonNegativeFloat = 1.0
    fields: NonNegativeFloat = 1.0
    motion: NonNegativeFloat = 0.3
    answer: NonNegativeFloat = 0.2


class EncoderConfig(Config):
    """The scene encoder; every token kind has ``width`` features."""

    width: PositiveInt = 64
    cameras: CameraConfig = CameraConfig()
    grid: GridConfig = GridConfig()
    lidar: LidarConfig = LidarConfig()
    semantic: SemanticConfig = SemanticConfig()
    perception: PerceptionConfig = PerceptionConfig()
    loss_weights: LossWeights = LossWeights()

    @property
    def token_counts(self) -> dict[str, int]:
        """Tokens of each kind, in the order of ``SceneTokens``."""
        bev, map_ = self.perception.bev_tokens, self.perception.map_tokens
        return {
            "meta": self.semantic.meta_tokens,
            "bev": bev[0] * bev[1],
            "map": map_[0] * map_[1],
            "object": self.perception.object_tokens,
            "ego": 2,
        }

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        total = sum(self.token_counts.values())
        if total > MAX_SCENE_TOKENS:
            raise ValueError(f"{total} scene tokens, at most {MAX_SCENE_TOKENS} fit a token-bank row")
        coarse = (self.grid.rows // 2, self.grid.columns // 2)
        for name in ("bev_tokens", "map_tokens"):
            patches = getattr(self.perception, name)
            if coarse[0] % patches[0] or coarse[1] % patches[1]:
                raise ValueError(f"perception.{name} {patches} must divide half of the grid, {coarse}")
        semantic, cameras = self.semantic, self.cameras
        if semantic.vision_model_path is None and (
            cameras.height_px % semantic.patch_height_px or cameras.width_px % semantic.patch_width_px
        ):
            raise ValueError(
                f"patches of {semantic.patch_height_px}x{semantic.patch_width_px} px must divide images of "
                f"{cameras.height_px}x{cameras.width_px} px"
            )
        return self


def sensor_config(encoder: EncoderConfig, allow_missing: bool) -> SensorConfig:
    """The sensors that an encoder takes, at its sizes."""
    return SensorConfig(
        cameras=encoder.cameras.names,
        image_height_px=encoder.cameras.height_px,
        image_width_px=encoder.cameras.width_px,
        lidar_history=encoder.lidar.sweep_indices,
        allow_missing=allow_missing,
    )
