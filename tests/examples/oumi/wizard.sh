oumi config create train --model meta-llama/Llama-3.1-8B --training-type lora --output my.yaml
