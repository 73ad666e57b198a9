"""What a trained model is measured on: held-out loss and synthetic tasks."""
