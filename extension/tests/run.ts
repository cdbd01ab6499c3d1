import { IRun } from '../src/api';

/** A run as the server describes it. */
export function makeRun(values: Partial<IRun> = {}): IRun {
  return {
    id: 'calm-crane-7~ab12',
    path: '/runs/calm-crane-7',
    folder: 'runs/calm-crane-7',
    status: 'completed',
    host: null,
    heard: null,
    name: 'calm-crane-7',
    model: 'smollm2-135m',
    method: 'lora',
    data: 'alpaca.jsonl',
    rows: 300,
    step: 0,
    total_steps: null,
    loss: null,
    eval_loss: null,
    seconds_left: null,
    started: 0,
    ended: null,
    curve: [],
    problems: [],
    allowed: [],
    ...values
  };
}
