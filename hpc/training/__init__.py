"""Train one model through DeepSpeed on one to many ranks, resumable at every step."""
