// Numbers and times as people say them, as nbft/formatting.py does.

import { position, reading } from '../chart/numbers.js';
import { IRun, JsonNumber } from './api';

/** Runs in these states may still say something. */
const AT_WORK = new Set(['queued', 'running', 'paused']);

export function isAtWork(run: IRun): boolean {
  return AT_WORK.has(run.status);
}

export function measured(value: JsonNumber): string {
  if (value === null) {
    return '–';
  }
  const number = Number(value);
  if (Number.isNaN(number)) {
    return 'not a number';
  }
  return Number.isFinite(number) ? reading(number) : 'infinite';
}

export function duration(seconds: number): string {
  let left = Math.round(seconds);
  for (const [large, size, small, part] of [
    ['d', 86400, 'h', 3600],
    ['h', 3600, 'min', 60],
    ['min', 60, 's', 1]
  ] as const) {
    if (left >= size) {
      const rest = Math.floor((left % size) / part);
      return `${Math.floor(left / size)} ${large}${rest ? ` ${rest} ${small}` : ''}`;
    }
  }
  return `${left} s`;
}

/** "step 41 of 94", or nothing before the first. */
export function progress(run: IRun): string {
  if (!run.total_steps) {
    return run.step ? `step ${position(run.step)}` : '';
  }
  return `step ${position(run.step)} of ${position(run.total_steps)}`;
}

/** The heading of a run in the list: those at work, then the days. */
export function heading(run: IRun, now: Date): string {
  if (isAtWork(run)) {
    return 'At work';
  }
  const day = new Date(run.started * 1000);
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (day.getTime() >= midnight) {
    return 'Today';
  }
  if (day.getTime() >= midnight - 86_400_000) {
    return 'Yesterday';
  }
  return day.toLocaleDateString(undefined, { year: 'numeric', month: 'long', day: 'numeric' });
}

/** A value of a setting, as YAML would show it on one line. */
export function setting(value: unknown): string {
  if (typeof value === 'string') {
    return value;
  }
  if (value === null) {
    return 'not set';
  }
  if (typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3) {
    return value.toExponential();
  }
  return JSON.stringify(value);
}
