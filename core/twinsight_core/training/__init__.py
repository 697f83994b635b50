"""How the shipped models are trained: data, augmentation, the loop, the scores and each model's recipe."""
