import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { version } from '../package.json';
import { Api, IRun, IRuns } from '../src/api';
import { LARGEST_COMPARISON, RunsModel } from '../src/model';
import { makeRun } from './run';

const trained = makeRun({ id: 'one~1', name: 'one' });
const training = makeRun({ id: 'two~2', name: 'two', status: 'running' });

/** A server with these runs, which finds them by name; counts what it is asked. */
class FakeServer {
  constructor(public list: IRun[]) {}

  asked: string[] = [];
  error = '';
  version = version;

  runs(search: string): Promise<IRuns> {
    this.asked.push(search);
    if (this.error) {
      return Promise.reject(new Error(this.error));
    }
    const runs = this.list.filter(run => run.name.includes(search));
    const total = this.list.length;
    return Promise.resolve({ version: this.version, total, matching: runs.length, runs });
  }
}

let server: FakeServer;
let model: RunsModel;

function start(...runs: IRun[]): void {
  server = new FakeServer(runs);
  model = new RunsModel(server as unknown as Api);
}

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  model.dispose();
  vi.useRealTimers();
});

describe('polling', () => {
  it('follows the interval while the panel is shown and a run is active', async () => {
    start(training);
    model.isShown = true;
    await pass(100);
    server.asked = [];
    await pass(10_000);
    expect(server.asked.length).toBe(5);
  });

  it('is a fifth as frequent without an active run', async () => {
    start(trained);
    model.isShown = true;
    await pass(100);
    server.asked = [];
    await pass(30_000);
    expect(server.asked.length).toBe(3);
  });

  it('stops while the panel is hidden and no run is active', async () => {
    start(trained);
    model.isShown = true;
    await pass(100);
    model.isShown = false;
    await pass(100);
    server.asked = [];
    await pass(3_600_000);
    expect(server.asked).toEqual([]);
  });

  it('takes up a new interval at once', async () => {
    start(training);
    model.interval = 60_000;
    model.isShown = true;
    await pass(100);
    server.asked = [];
    model.interval = 1_000;
    await pass(5_100);
    expect(server.asked.length).toBeGreaterThanOrEqual(5);
  });

  it('backs off from a server that fails, and says why', async () => {
    start(training);
    model.isShown = true;
    await pass(100);
    server.asked = [];
    server.error = 'The Jupyter server does not respond.';
    await pass(60_000);
    expect(server.asked.length).toBeLessThan(15);
    expect(model.notice).toBe(server.error);
    server.error = '';
    model.refresh();
    await pass(100);
    expect(model.notice).toBe('');
  });
});

describe('runs', () => {
  it('are those that match the search', async () => {
    start(trained, training);
    model.refresh();
    await pass(10);
    expect(model.runs).toEqual([trained, training]);
    model.search = 'one';
    await pass(10);
    expect(model.runs).toEqual([trained]);
    expect(model.running).toBe(training); // the status bar still shows it
  });

  it('are empty only once the server has said so', async () => {
    start();
    expect(model.isEmpty).toBe(false);
    model.refresh();
    await pass(10);
    expect(model.isEmpty).toBe(true);
  });

  it('come with a notice when the server is of another version', async () => {
    start(trained);
    server.version = '0.0.1';
    model.refresh();
    await pass(10);
    expect(model.notice).toContain('the server runs nbft 0.0.1.');
  });
});

describe('selection', () => {
  it('keeps the order and allows two to six runs to be compared', () => {
    start();
    const ids = Array.from({ length: LARGEST_COMPARISON + 1 }, (_, i) => `run~${i}`);
    model.select(ids[0], true);
    expect(model.canCompare).toBe(false);
    ids.slice(1, -1).forEach(id => model.select(id, true));
    expect(model.selected).toEqual(ids.slice(0, -1));
    expect(model.canCompare).toBe(true);
    model.select(ids[LARGEST_COMPARISON], true);
    expect(model.canCompare).toBe(false);
    model.select(ids[0], false);
    expect(model.selected).toEqual(ids.slice(1));
  });

  it('forgets runs that are gone, but not those that a search hides', async () => {
    start(trained, training);
    const seen: number[] = [];
    model.selectionChanged.connect(() => seen.push(model.selected.length));
    model.select(trained.id, true);
    model.select(training.id, true);
    model.search = 'one';
    await pass(10);
    expect(model.selected.length).toBe(2);
    server.list = [training];
    model.search = '';
    await pass(10);
    expect(model.selected).toEqual([training.id]);
    expect(seen).toEqual([1, 2, 1]);
  });
});
