# A script as people write it: rows become text by a template, and only the answers are trained on.
import argparse

from datasets import load_dataset
from transformers import DataCollatorForSeq2Seq, TrainingArguments
from trl import SFTTrainer
from unsloth import FastLanguageModel, is_bfloat16_supported
from unsloth.chat_templates import train_on_responses_only

TASK = """Do what is asked.

### Task:
{}

### More:
{}

### Answer:
{}"""


def load(name, length):
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=name, max_seq_length=length, dtype=None, load_in_4bit=False
    )
    model = FastLanguageModel.get_peft_model(
        model, r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], random_state=1
    )
    return model, tokenizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="unsloth/SmolLM2-135M")
    parser.add_argument("--lr", type=float, default=1e-4)
    options = parser.parse_args()
    model, tokenizer = load(options.model, 512)

    def as_text(batch):
        texts = []
        for task, more, answer in zip(batch["instruction"], batch["input"], batch["output"]):
            texts.append(TASK.format(task, more, answer) + tokenizer.eos_token)
        return {"text": texts}

    rows = load_dataset("yahma/alpaca-cleaned", split="train").map(as_text, batched=True)
    trainer = SFTTrainer(
        model=model,
        tokenizer=tokenizer,
        train_dataset=rows,
        dataset_text_field="text",
        data_collator=DataCollatorForSeq2Seq(tokenizer=tokenizer),
        args=TrainingArguments(
            learning_rate=options.lr,
            max_steps=60,
            fp16=not is_bfloat16_supported(),
            bf16=is_bfloat16_supported(),
            output_dir="outputs",
        ),
    )
    trainer = train_on_responses_only(
        trainer, instruction_part="### Task:\n", response_part="### Answer:\n"
    )
    trainer.train()
    model.save_pretrained("result")


if __name__ == "__main__":
    main()
