// Numbers, times and states as people read them; as in nbft/formatting.py.

import { TranslationBundle } from '@jupyterlab/translation';

import { position, reading } from '../chart/numbers.js';
import { IRun, JsonNumber, Status } from './api';

/** Runs in these states have not ended. */
const ACTIVE = new Set<Status>(['queued', 'running', 'paused']);

export function isActive(run: IRun): boolean {
  return ACTIVE.has(run.status);
}

/** The name of a run: its id without what tells apart runs of one name. */
export function runName(id: string): string {
  const end = id.lastIndexOf('~');
  return end === -1 ? id : id.slice(0, end);
}

export function statusLabel(status: Status, trans: TranslationBundle): string {
  const labels: Record<Status, string> = {
    created: trans.__('created'),
    queued: trans.__('queued'),
    running: trans.__('running'),
    paused: trans.__('paused'),
    completed: trans.__('completed'),
    stopped: trans.__('stopped'),
    cancelled: trans.__('cancelled'),
    failed: trans.__('failed'),
    lost: trans.__('lost')
  };
  return labels[status] ?? status; // a newer server may know more
}

/** The status of a run, with the other machine that has it. */
export function statusWords(run: IRun, now: Date, trans: TranslationBundle): string {
  if (!run.host) {
    return statusLabel(run.status, trans);
  }
  if (run.status !== 'lost') {
    return trans.__('%1 on %2', statusLabel(run.status, trans), run.host);
  }
  if (run.heard === null) {
    return trans.__('no word from %1', run.host);
  }
  const then = new Date(run.heard * 1000);
  const time = then.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });
  const isToday = then.toDateString() === now.toDateString();
  const since = isToday ? time : `${then.toLocaleDateString()} ${time}`;
  return trans.__('no word from %1 since %2', run.host, since);
}

export function measured(value: JsonNumber, trans: TranslationBundle): string {
  if (value === null) {
    return '–';
  }
  const number = Number(value);
  if (Number.isNaN(number)) {
    return trans.__('not a number');
  }
  return Number.isFinite(number) ? reading(number) : trans.__('infinite');
}

/** A time in its two largest units: "1 h 5 min". */
export function duration(seconds: number): string {
  const left = Math.round(seconds);
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

/** An amount of disk space: "1.9 GiB". */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${bytes.toFixed(unit > 0 && bytes < 10 ? 1 : 0)} ${units[unit]}`;
}

/** "step 41 of 94", or nothing before the first. */
export function progress(run: IRun, trans: TranslationBundle): string {
  if (!run.total_steps) {
    return run.step ? trans.__('step %1', position(run.step)) : '';
  }
  return trans.__('step %1 of %2', position(run.step), position(run.total_steps));
}

/** "1 min 52 s left", or nothing when nobody knows. */
export function timeLeft(run: IRun, trans: TranslationBundle): string {
  const seconds = run.seconds_left === null ? NaN : Number(run.seconds_left);
  return isFinite(seconds) ? trans.__('%1 left', duration(seconds)) : '';
}

/** "loss 1.430", or nothing before the first. */
export function lossSoFar(run: IRun, trans: TranslationBundle): string {
  return run.loss === null ? '' : trans.__('loss %1', measured(run.loss, trans));
}

/** The heading of a run in the list: active ones first, then the days. */
export function heading(run: IRun, now: Date, trans: TranslationBundle): string {
  if (isActive(run)) {
    return trans.__('Active');
  }
  const day = new Date(run.started * 1000);
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (day.getTime() >= midnight) {
    return trans.__('Today');
  }
  if (day.getTime() >= new Date(midnight).setDate(new Date(midnight).getDate() - 1)) {
    return trans.__('Yesterday');
  }
  return day.toLocaleDateString(undefined, { year: 'numeric', month: 'long', day: 'numeric' });
}

/** A value of a setting, as YAML would show it on one line. */
export function setting(value: unknown, trans: TranslationBundle): string {
  if (typeof value === 'string') {
    return value;
  }
  if (value === null) {
    return trans.__('not set');
  }
  if (typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3) {
    return value.toExponential();
  }
  return JSON.stringify(value);
}
