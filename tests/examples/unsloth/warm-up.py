if step < warmup_steps:
    lr = base_lr * (step / warmup_steps)
else:
    lr = scheduler(step)
