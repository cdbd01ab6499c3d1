import { describe, expect, it, test } from 'vitest';

import { logTicks, position, reading, tick } from '../../chart/numbers.js';

test.each([
  [0, '0'],
  [41, '41'],
  [12_000, '12,000'],
  [1.23456, '1.235']
])('position %d is %s', (x, text) => {
  expect(position(x)).toBe(text);
});

test.each([
  [0, '0'],
  [1.43, '1.430'],
  [-1.43, '-1.430'],
  [999.96, '1000'],
  [12_000, '12,000'],
  [2.5e-4, '2.5e-4'],
  [1e6, '1e6'],
  [1_234_567, '1.235e6']
])('%d reads %s', (value, text) => {
  expect(reading(value)).toBe(text);
});

test.each([
  [0, '0'],
  [1.4, '1.4'],
  [0.1 + 0.2, '0.3'],
  [20_000, '20,000'],
  [2e-4, '2e-4'],
  [2e6, '2e6']
])('the tick at %d is %s', (value, text) => {
  expect(tick(value)).toBe(text);
});

describe('logTicks', () => {
  it('are 1, 2 and 5 of each decade', () => {
    expect(logTicks(1, 100)).toEqual([1, 2, 5, 10, 20, 50, 100]);
  });

  it('are decades over a wide range', () => {
    expect(logTicks(1, 1e5)).toEqual([1, 10, 100, 1000, 1e4, 1e5]);
  });

  it('are round steps within less than a decade', () => {
    const ticks = logTicks(2.1, 2.9);
    expect(ticks.length).toBeGreaterThanOrEqual(3);
    expect(ticks.length).toBeLessThanOrEqual(7);
    expect(ticks.every(value => value >= 2.1 && value <= 2.9 + 1e-9)).toBe(true);
  });
});
