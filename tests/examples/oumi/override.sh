oumi train -c lora.yaml \
  --training.learning_rate 5e-5 \
  --training.num_train_epochs 5 \
  "--data.train.datasets[0].sample_count" 2000
