"""Names of settings in other trainers, each with its name here or with what to do instead.

Published UNITER settings are in `config.legacy`; what both know is answered from there.
"""

from __future__ import annotations

from collections.abc import Mapping

_STEPS = (
    "there are no epochs; num_train_steps = epochs x captions of the training stores / anchors of one update "
    "(train_batch_size x ranks, or global_batch_size)"
)
_BATCH = (
    "train_batch_size is the batch of each rank, global_batch_size that of all ranks together; evaluation takes blocks "
    "of tokens_per_block tokens"
)
_STORES = (
    "captions and images come from stores, which scripts/build_txtdb.py and scripts/build_imgdb.py make; name them "
    "with train_txt_dbs, train_img_dbs, val_txt_db, val_img_db, test_txt_db and test_img_db"
)
_RANKS = (
    "the launcher starts one rank for each GPU, as in scripts/launch.py -np 4 python train/...; CUDA_VISIBLE_DEVICES "
    "says which GPUs there are"
)
_WARMUP = "warmup_steps is in updates: their share of num_train_steps, or epochs x captions / anchors of one update"
_DROPS = (
    "the rate drops with schedule step and decay_steps, or milestones and decay_at, both in updates: epochs x captions "
    "of the training stores / anchors of one update"
)
_WEIGHTS = "weights to start from are named with checkpoint, towers of LAPS with vision and text"
_ACCUMULATE = (
    "gradients are not accumulated; raise train_batch_size (mining_batch bounds the memory of itm_hn), or the ranks"
)
_EVALUATE = "measure a trained model with train/evaluate.py --config RUN"

_TABLE: tuple[tuple[str, str], ...] = (
    # what the update is
    ("lr lr_base base_lr max_lr peak_lr", "learning_rate"),
    ("epochs epoch num_epochs n_epochs num_epoch max_epochs max_epoch num_train_epochs nepochs", _STEPS),
    ("max_steps max_step total_steps n_steps num_steps train_steps max_iter max_iters iterations num_iterations "
     "num_training_steps max_train_steps", "num_train_steps"),
    ("batch_size batchsize bs b batch per_device_train_batch_size per_gpu_train_batch_size micro_batch_size "
     "eval_batch_size per_device_eval_batch_size test_batch_size", _BATCH),
    ("total_batch_size effective_batch_size", "global_batch_size"),
    ("accum_freq accum_iter accumulate_grad_batches grad_accum grad_accum_steps accumulation_steps", _ACCUMULATE),
    ("wd weightdecay decay_weight l2", "weight_decay"),
    ("opt optimizer optimiser", "optim"),
    ("eps adam_epsilon opt_eps epsilon", "adam_eps"),
    ("opt_betas adam_betas", "betas"),
    ("beta1 beta2 adam_beta1 adam_beta2", "both are one setting here: betas 0.9 0.98"),
    ("momentum", "there is no SGD; the first of betas is the momentum of the optimizers there are (optim)"),
    ("grad_clip clip_grad max_grad_norm gradient_clip_val grad_clip_norm clip clip_norm clip_grad_norm max_norm",
     "grad_norm"),
    ("lr_scheduler lr_scheduler_type scheduler sched lr_schedule lr_policy", "schedule"),
    ("warmup warmup_iters num_warmup_steps warmup_updates", "warmup_steps"),
    ("warmup_ratio warmup_epochs warmup_proportion num_warmup_epochs", _WARMUP),
    ("lr_update lr_schedules decay_epochs lr_step lr_steps step_size milestones decay_milestones", _DROPS),
    ("decay_rate lr_gamma gamma lr_decay lr_decay_rate", "decay_factor"),
    ("min_lr lr_min", "a linear schedule ends at 0, a step one after its last drop; leave it out"),
    ("amp bf16 half mixed_precision use_amp amp_dtype native_amp autocast dtype",
     "precision fp16 or precision bf16 computes in half precision, off does not"),
    ("random_seed manual_seed rng_seed", "seed"),
    # what is read and written
    ("workers num_workers j dataloader_num_workers num_worker n_worker nworkers", "n_workers"),
    ("pin_memory pin_mem_loader dataloader_pin_memory", "pin_mem"),
    ("prefetch prefetch_factor dataloader_prefetch_factor", "prefetch_batches"),
    ("data_path data_dir data_root data_name data dataset dataset_name root train_data val_data train_file "
     "validation_file f30k_img_path coco_img_path img_path image_root ann_file", _STORES),
    ("vocab vocab_path vocab_file", "a text store holds its vocabulary; scripts/build_txtdb.py takes the file"),
    ("img_res img_size image_size crop_size input_size", "pictures are made as large as the vision tower takes them; "
     "give another tower (vision), such as one of 384 pixels"),
    ("output out out_dir outdir save_dir log_dir logdir logs logger_name logging_dir default_root_dir work_dir "
     "exp_dir experiment save_path result_dir", "output_dir"),
    ("model_name", "output_dir is a run's folder, matcher the kind of model, checkpoint the weights to start from"),
    ("resume_from_checkpoint resume_from ckpt_path resume_path auto_resume load_checkpoint", "resume"),
    ("reset_train", "weights alone are named with checkpoint; resume goes on with optimizer and schedule too"),
    ("pretrained pretrained_path pretrained_model initial_checkpoint init_checkpoint finetune model_name_or_path "
     "load weights load_from ckpt pretrained_model_name_or_path", _WEIGHTS),
    ("model arch architecture backbone net", "matcher"),
    ("loss criterion loss_type", "objective"),
    ("vit_type cnn_type", "vision names the pre-trained tower: a folder, or a model of the hub"),
    ("save_total_limit checkpoint_hist keep_last max_checkpoints num_checkpoints keep_checkpoints", "keep"),
    ("save_frequency save_freq save_interval save_step checkpoint_interval", "save_steps"),
    ("log_step log_interval logging_steps log_every log_every_n_steps print_freq print_every log_freq log_every_n",
     "log_steps"),
    ("val_step val_steps eval_steps eval_step val_interval eval_interval eval_freq val_frequency val_freq valid_step "
     "val_check_interval evaluation_steps eval_every", "valid_steps"),
    ("val_check_every_n_epoch check_val_every_n_epoch eval_strategy evaluation_strategy save_strategy",
     "validations come every valid_steps updates, checkpoints every save_steps; an epoch is captions of the training "
     "stores / anchors of one update"),
    ("metric_for_best_model eval_metric monitor select_metric", "select_by"),
    ("load_best_model_at_end", "the best checkpoint (select_by) is measured at the end in any case; leave it out"),
    ("report_to wandb logger", "metrics.jsonl and TensorBoard events are written to output_dir, nothing is sent away"),
    ("tb use_tensorboard", "tensorboard"),
    # how it runs
    ("gpu gpus gpu_id gpu_ids n_gpus num_gpus devices cuda accelerator multi_gpu distributed nproc_per_node "
     "nproc np n_procs num_nodes nodes strategy", _RANKS),
    ("dist_url dist_backend master_addr master_port backend init_method", "the launcher says where ranks meet; leave "
     "it out"),
    ("no_cuda cpu use_cpu", "device cpu computes without a GPU"),
    ("gradient_checkpointing grad_checkpointing activation_checkpointing", "only LAPS can compute layers again to save "
     "memory: recompute_layers"),
    ("fast_dev_run sanity_check debug", "dry_run"),
    ("deterministic cudnn_deterministic", "every draw hangs on seed already; leave it out"),
    ("overwrite_output_dir overwrite", "a folder is never overwritten; name another output_dir"),
    ("timeout time_limit max_time", "stop_after"),
    ("eval do_eval eval_only evaluate test do_test test_only", _EVALUATE),
    ("do_train train", "train/itm.py and train/itm_hn.py do nothing else; leave it out"),
    # what a system's published program calls it
    ("max_violation", "it is of objective triplet and quintuplet, which train/itm.py trains with; choose one of them"),
    ("vse_mean_warmup_epochs", "hardest_from of objective triplet = these epochs / all epochs"),
    ("model_config", 'a config file says it, as in "matcher": {"extends": "uniter-base.json"}'),
    ("use_restval", "pack restval with the training captions: scripts/build_txtdb.py --split train restval"),
    ("measure", "eval.select_by says which recall chooses the best checkpoint"),
)  # fmt: skip

FOREIGN_NAMES: dict[str, str] = {name: told for names, told in _TABLE for name in names.split()}
"""By the name that others use: the name of a setting here, or a sentence."""


def suggest(name: str, spelled: Mapping[str, str]) -> str | None:
    """Return what to say of a name that is unknown here but usual elsewhere; None for any other.

    Args:
        spelled: how each setting that there is should be written, by its name.
    """
    told = FOREIGN_NAMES.get(name.lower())
    if told is None or (told.isidentifier() and told not in spelled):
        return None
    return f"a name of other trainers: {f'here it is {spelled[told]}' if told.isidentifier() else told}"
