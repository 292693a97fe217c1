"""The sections of a run as typed, documented, frozen models: the one place of each default, range and meaning.

A matcher and an objective bring their own section (a `Named` declared beside them in `model/`). The string
under a field is its documentation: the help text of its flag, and part of the message when it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
)
from pydantic_core import PydanticCustomError

from config.durations import seconds

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PASSING = Field(json_schema_extra={"identity": False})
"""Marks a field that does not decide the result: where, how often, how fast. It is left out of `Run.hash`."""


def _or_minus_one(holds: Callable[[Any], bool], wanted: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if value != -1 and not holds(value):
            raise PydanticCustomError("range", "should be {wanted}", {"wanted": wanted})
        return value

    return AfterValidator(check)


def _span(value: str) -> str:
    if value:
        seconds(value)
    return value


class Section(BaseModel):
    """A group of settings: frozen, unknown keys refused, fields documented by the string below them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Named(Section):
    """A section chosen by its `name`: the Config that a matcher or an objective declares beside itself."""

    name: str
    """which one"""


class Data(Section):
    """the stores, and which texts and regions of them are used"""

    train_txt_dbs: tuple[str, ...] = ()
    """text stores to train on, one for each of train_img_dbs"""
    train_img_dbs: tuple[str, ...] = ()
    """image stores to train on, in the order of train_txt_dbs"""
    val_txt_db: str = ""
    """text store of the validation ('' = none)"""
    val_img_db: str = ""
    """image store of the validation ('' = none)"""
    test_txt_db: str = ""
    """text store of the final evaluation ('' = none)"""
    test_img_db: str = ""
    """image store of the final evaluation ('' = none)"""
    conf_th: Annotated[float, _or_minus_one(lambda x: 0 <= x <= 1, "from 0 to 1, or -1")] = 0.2
    """regions above this confidence are used; -1 = always the first num_bb"""
    max_bb: Count = 100
    """most regions of an image when chosen by confidence"""
    min_bb: Count = 10
    """fewest regions of an image when chosen by confidence"""
    num_bb: Count = 36
    """regions of an image when conf_th is -1"""
    compressed_db: bool = False
    """read the compressed variant of a published image store"""
    max_txt_len: Annotated[int, _or_minus_one(lambda x: x >= 1, "1 or more, or -1")] = 60
    """longest training text in WordPiece ids, without [CLS] and [SEP]; -1 = all; evaluation takes all"""
    smallest_crop: Share = 0.0
    """train on random parts of pictures, mirrored or not, of at least this share of the area; 0 = on whole pictures"""
    word_augment: Share = 0.0
    """share of the words of training texts that are altered: half masked, a tenth replaced, the rest left out"""
    damaged: Literal["fail", "skip", "quarantine"] = "fail"
    """what a damaged record does: stop the run, be left out, or be left out and listed in a file"""
    n_workers: Annotated[Natural, PASSING] = 4
    """reading processes of each rank (0 = read in the training process)"""
    pin_mem: Annotated[bool, PASSING] = True
    """read into page-locked memory when a GPU is used"""
    prefetch_batches: Annotated[Natural, PASSING] = 2
    """batches that each reading process holds ready"""
    picture_cache_mb: Annotated[Natural, PASSING] = 2048
    """memory of each rank for the decoded pictures of a split that is evaluated, in MiB: they are decoded only once"""


class Negatives(Section):
    """who an anchor is set against: a pool of its own (itm_hn), or the batch and what was mined offline (itm)"""

    negative_size: Count = 399
    """negatives drawn and scored for each anchor"""
    hard_neg_size: Count = 31
    """hardest of them that are trained on"""
    mine_after: Natural = 0
    """updates that train on as many drawn negatives before mining begins; weights from scratch collapse without"""
    mining_batch: Count = 1
    """anchors of one direction scored, then trained, in one pass; divides train_batch_size"""
    offline: str = ""
    """folder of mined candidate lists, whose negatives join each item of a batch ('' = only the batch)"""
    offline_range: Count = 300
    """best candidate texts of an image that are drawn from"""
    offline_rank_ratio: Count = 5
    """texts to one image in the lists: as many times fewer candidate images are drawn from"""
    rank_coupling: Literal["shared", "independent"] = "shared"
    """one draw for the ranks of both candidates, as published, or one each"""
    refresh_every: Natural = 0
    """epochs after which candidates are mined anew with the weights of the moment; 0 = never"""
    mask_same_words: bool = False
    """an image and a caption of the very words of one of its own are no negative; false = they are, as published"""
    separate_passes: bool = True
    """encode matching pairs and offline negatives in passes of their own, as published: it decides batch statistics"""


class Optim(Section):
    """the update: optimizer, schedule, batch and precision"""

    optim: Literal["adamw", "torch_adamw", "adam", "adamax"] = "adamw"
    """optimizer; adamw = as the published UNITER computes it, torch_adamw = as torch does and most programs"""
    learning_rate: Positive = 5e-5
    """peak learning rate, reached at the end of the warm-up"""
    schedule: Literal["linear", "step", "milestones"] = "linear"
    """after the warm-up: fall linearly to zero, or by decay_factor every decay_steps updates, or after decay_at"""
    decay_steps: Count = 5000
    """updates between two drops of the step schedule"""
    decay_at: tuple[Natural, ...] = ()
    """updates after which the milestones schedule drops, in ascending order"""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """what a drop of the step or milestones schedule multiplies the learning rate by"""
    rate_factors: tuple[tuple[str, Positive], ...] = ()
    """groups, each as ["start of its parameters' names", factor of their rate]; the first that fits counts"""
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """decay of the optimizer's first and second moments"""
    adam_eps: Positive = 1e-6
    """added to the root of the second moment"""
    weight_decay: NotNegative = 0.01
    """decoupled decay of weights; biases and the encoder's LayerNorm are spared"""
    decay_all: bool = False
    """decay biases and all normalisations too"""
    correct_bias: bool = True
    """correct the moments for their start at zero"""
    decay_embedding_norms: bool = True
    """decay img_layer_norm and pos_layer_norm too, as published runs did"""
    grad_norm: Annotated[float, _or_minus_one(lambda x: x > 0, "greater than 0, or -1")] = 2.0
    """largest norm of the whole gradient; -1 = no clipping"""
    warmup_steps: Natural = 500
    """updates over which the learning rate grows from zero"""
    num_train_steps: Count = 5000
    """updates of the whole run"""
    train_batch_size: Count = 8
    """anchors of each rank in one update (itm_hn: of each direction)"""
    global_batch_size: Natural = 0
    """anchors of all ranks in one update, shared out over them however many there are; 0 = train_batch_size on each"""
    precision: Literal["off", "fp16", "bf16"] = "off"
    """arithmetic of the forward pass; parameters, losses and optimizer stay float32"""
    use_apex: bool = False
    """use apex's fused optimizer; the run stops where apex is not installed"""
    compression: Literal["none", "fp16"] = "none"
    """how gradients travel between ranks; fp16 halves the bytes, and keeps true gradients from about 1e-8 to 64"""
    step_twice: str = ""
    """parameters (the start of their names) that the optimizer holds twice, as published VSRN did ('' = none)"""
    most_skipped: Natural = 20
    """updates in a row that may be skipped because their gradient is not finite; one more ends the run"""


class Eval(Section):
    """when and how retrieval is measured"""

    valid_steps: Count = 500
    """updates between two validations; one more follows the last update"""
    full_val: bool = True
    """validate on every image-text pair; false = the quick check against inf_minibatch_size images"""
    inf_minibatch_size: Annotated[int, Field(ge=10)] = 400
    """candidate images of each text in the quick check"""
    tokens_per_block: Annotated[Count, PASSING] = 65536
    """packed tokens of one scoring block: bounds the memory"""
    ties: Literal["pessimistic", "optimistic", "mean", "index"] = "pessimistic"
    """rank of a positive that scores the same as negatives: after them, before them, in their middle, as listed"""
    ir_count: Literal["correct", "legacy"] = "correct"
    """count of image-retrieval hits; legacy repeats the published code's error, for comparison only"""
    median_rank: Literal["exact", "floor"] = "exact"
    """a median between two ranks: their middle, or that rounded down, as the published programs print it"""
    score_dtype: Literal["float32", "float16"] = "float32"
    """type that scores are kept in; float16 makes ties (the mean of an ensemble is kept in float64)"""
    folds: Count = 1
    """equal parts of the test images whose recalls are averaged (5 = COCO 1K)"""
    select_by: Literal["rsum", "r1r5", "r_mean", "txt_r_mean", "img_r_mean", "txt_r1", "img_r1"] = "rsum"
    """validation number whose highest value makes the best checkpoint (r1r5 = sum of both R@1 and R@5)"""
    select_on_test: bool = False
    """choose the best checkpoint by the test set, as LAPS was published; its test recalls are then too high"""
    two_stage: Natural = 0
    """score only the pairs among the k best by pooled tokens, of each image and text (0 = all pairs)"""


class Output(Section):
    """what is written, where and how often"""

    output_dir: Annotated[str, PASSING] = ""
    """folder of this run's checkpoints, metrics and results"""
    resume: Annotated[str, PASSING] = "auto"
    """auto = go on from the output folder's newest checkpoint, never = start anew, else a checkpoint to begin with"""
    extend: Annotated[bool, PASSING] = False
    """let the run in the output folder go on to a larger num_train_steps, by whose schedule it goes from there on"""
    keep: Annotated[Count, PASSING] = 2
    """newest checkpoints kept besides the best"""
    save_steps: Annotated[Natural, PASSING] = 0
    """updates between two checkpoints; 0 = at every validation"""
    log_steps: Annotated[Count, PASSING] = 10
    """updates between two lines of the log"""
    tensorboard: Annotated[bool, PASSING] = True
    """write TensorBoard events too"""


class Cluster(Section):
    """where ranks compute, and how a run lives with ranks that are lost, that stall, or that are told to stop"""

    device: Annotated[Literal["auto", "cpu", "cuda"], PASSING] = "auto"
    """what each rank computes on: a GPU of its own, the CPU, or auto = a GPU where the host has one"""
    stall_timeout: Annotated[NotNegative, PASSING] = 600.0
    """seconds without a sign of progress after which a rank counts as stalled and the job is ended; 0 = never"""
    elastic: Annotated[bool, PASSING] = False
    """go on with the ranks that are left and with those that join (horovodrun --min-np, --host-discovery-script)"""
    commit_steps: Annotated[Count, PASSING] = 10
    """updates between two commits of an elastic run to host memory: the most that a lost rank costs"""
    stop_after: Annotated[str, AfterValidator(_span), PASSING] = ""
    """save and leave with 75 after so long, such as 3h55m, 90m or 7200 (seconds); '' = as long as SLURM allows"""


class Weights(Section):
    """the weights a run starts from"""

    checkpoint: str = ""
    """pre-trained or fine-tuned weights to start from ('' = random)"""
    strict_checkpoint: bool = True
    """refuse to start from a checkpoint that is not plainly a part of this model; false = take whatever fits by name"""
    rank_head_init: Literal["if_missing", "always"] = "if_missing"
    """when the ranking head is copied from the matching head: if the checkpoint has none, or always (as published)"""
    vision: str = ""
    """pre-trained vision tower: a folder with config.json and weights, or its name on the hub ('' = random)"""
    text: str = ""
    """pre-trained text tower, likewise"""


class Settings(Section):
    """all settings of one run, each checked by itself"""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """key of every random draw"""
    data: Data = Data()
    negatives: Negatives = Negatives()
    optim: Optim = Optim()
    eval: Eval = Eval()
    output: Output = Output()
    cluster: Cluster = Cluster()
    weights: Weights = Weights()
    matcher: SerializeAsAny[Named]
    objective: SerializeAsAny[Named]
