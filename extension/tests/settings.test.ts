import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Signal } from '@lumino/signaling';
import { expect, test } from 'vitest';

import { PanelSettings } from '../src/settings';

/** A registry with one setting, which `set` changes. */
function makeRegistry(seconds: unknown) {
  const changed = new Signal<object, void>({});
  const settings = { changed, get: () => ({ composite: seconds }) };
  return {
    load: () => Promise.resolve(settings),
    set(value: unknown) {
      seconds = value;
      changed.emit();
    }
  } as unknown as ISettingRegistry & { set(value: unknown): void };
}

test('the defaults hold until the settings are loaded', async () => {
  const settings = new PanelSettings();
  expect(settings.interval).toBe(2000);
  await settings.load(makeRegistry(7), 'nbft:plugin');
  expect(settings.interval).toBe(7000);
});

test('a change is announced', async () => {
  const settings = new PanelSettings();
  const registry = makeRegistry(7);
  await settings.load(registry, 'nbft:plugin');
  const seen: number[] = [];
  settings.changed.connect(sender => seen.push(sender.interval));
  registry.set(5);
  expect(seen).toEqual([5000]);
});

test('the defaults hold when loading fails or a value is missing', async () => {
  const settings = new PanelSettings();
  const failing = { load: () => Promise.reject(new Error('no schema')) };
  await expect(settings.load(failing as unknown as ISettingRegistry, 'x')).rejects.toThrow();
  expect(settings.interval).toBe(2000);
  await settings.load(makeRegistry(undefined), 'nbft:plugin');
  expect(settings.interval).toBe(2000);
});
