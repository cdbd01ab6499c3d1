import { nullTranslator } from '@jupyterlab/translation';
import { describe, expect, it, test } from 'vitest';

import { Status } from '../src/api';
import {
  duration,
  heading,
  isActive,
  lossSoFar,
  measured,
  progress,
  runName,
  setting,
  size,
  statusLabel,
  statusWords,
  timeLeft
} from '../src/formatting';
import { makeRun } from './run';

const trans = nullTranslator.load('nbft');

test.each([
  [0, '0 s'],
  [59.4, '59 s'],
  [59.6, '1 min'],
  [112, '1 min 52 s'],
  [3600, '1 h'],
  [3661, '1 h 1 min'],
  [86_400, '1 d'],
  [180_000, '2 d 2 h']
])('%d seconds are %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text);
});

test.each([
  [null, '–'],
  [0, '0'],
  [1.43, '1.430'],
  [12_345, '12,345'],
  [2e-4, '2e-4'],
  ['NaN', 'not a number'],
  ['Infinity', 'infinite'],
  ['-Infinity', 'infinite']
] as const)('%s is measured as %s', (value, text) => {
  expect(measured(value, trans)).toBe(text);
});

test.each([
  [{}, ''],
  [{ step: 3 }, 'step 3'],
  [{ step: 0, total_steps: 94 }, 'step 0 of 94'],
  [{ step: 1200, total_steps: 12_000 }, 'step 1,200 of 12,000']
])('the progress of %o is "%s"', (run, text) => {
  expect(progress(makeRun(run), trans)).toBe(text);
});

test('the time left is shown when it is known', () => {
  expect(timeLeft(makeRun({ seconds_left: 112 }), trans)).toBe('1 min 52 s left');
  expect(timeLeft(makeRun({ seconds_left: 0 }), trans)).toBe('0 s left');
  expect(timeLeft(makeRun({ seconds_left: null }), trans)).toBe('');
  expect(timeLeft(makeRun({ seconds_left: 'NaN' }), trans)).toBe('');
});

test('the loss is shown from the first step on', () => {
  expect(lossSoFar(makeRun({ loss: 1.25 }), trans)).toBe('loss 1.250');
  expect(lossSoFar(makeRun({ loss: 'NaN' }), trans)).toBe('loss not a number');
  expect(lossSoFar(makeRun(), trans)).toBe('');
});

test.each(['queued', 'running', 'paused'] as Status[])('a %s run is active', status => {
  expect(isActive(makeRun({ status }))).toBe(true);
});

test.each(['created', 'completed', 'stopped', 'cancelled', 'failed', 'lost'] as Status[])(
  'a %s run is not active',
  status => {
    expect(isActive(makeRun({ status }))).toBe(false);
  }
);

test('a status that only a newer server knows is shown as it is', () => {
  expect(statusLabel('running', trans)).toBe('running');
  expect(statusLabel('hibernating' as Status, trans)).toBe('hibernating');
});

test('a run of another machine names it', () => {
  const now = new Date(2026, 2, 30, 15, 0);
  const heard = new Date(2026, 2, 30, 14, 2).getTime() / 1000;
  const on = (status: Status, when: number | null = heard) =>
    statusWords(makeRun({ status, host: 'gpu-7', heard: when }), now, trans);
  expect(statusWords(makeRun({ status: 'running' }), now, trans)).toBe('running');
  expect(on('running')).toBe('running on gpu-7');
  expect(on('lost')).toMatch(/^no word from gpu-7 since .*02/);
  expect(on('lost', heard - 86_400 * 2)).toMatch(/since .*28.*02/);
  expect(on('lost', null)).toBe('no word from gpu-7');
});

describe('heading', () => {
  const now = new Date(2026, 2, 30, 0, 30); // in many places the day after the clocks change
  const at = (...when: [number, number, number, number]) =>
    makeRun({ started: new Date(...when).getTime() / 1000 });

  it('is Active for a run that has not ended, whenever it began', () => {
    expect(heading(makeRun({ status: 'running', started: 0 }), now, trans)).toBe('Active');
  });

  it('is the day for others', () => {
    expect(heading(at(2026, 2, 30, 0), now, trans)).toBe('Today');
    expect(heading(at(2026, 2, 29, 23), now, trans)).toBe('Yesterday');
    expect(heading(at(2026, 2, 29, 0), now, trans)).toBe('Yesterday');
    expect(heading(at(2026, 2, 28, 23), now, trans)).toMatch(/28.*2026/);
  });
});

test('the name of a run is its id without the suffix', () => {
  expect(runName('calm-crane-7~ab12')).toBe('calm-crane-7');
  expect(runName('a~b~ab12')).toBe('a~b');
  expect(runName('calm-crane-7')).toBe('calm-crane-7');
});

test.each([
  ['text', 'text'],
  [null, 'not set'],
  [2e-4, '2e-4'],
  [0, '0'],
  [0.1, '0.1'],
  [true, 'true'],
  [['q_proj'], '["q_proj"]']
])('the setting %o is shown as %s', (value, text) => {
  expect(setting(value, trans)).toBe(text);
});

test.each([
  [512, '512 B'],
  [1536, '1.5 KiB'],
  [143_000_000, '136 MiB'],
  [2 ** 45, '32 TiB']
])('%d bytes are %s', (bytes, text) => {
  expect(size(bytes)).toBe(text);
});
