import { Poll } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { version } from '../package.json';
import { Api, IRun } from './api';
import { isAtWork } from './formatting';

const LONGEST_WAIT_MS = 60_000;
const STATUS_MS = 15_000;
const IDLE_FACTOR = 5;

export const LARGEST_COMPARISON = 6;

/**
 * The list of runs, kept up to date while somebody looks at it.
 *
 * While the panel is hidden nothing is asked, but for the status bar: slowly, and only while a run
 * is known to be at work.
 */
export class RunsModel {
  constructor(readonly api: Api) {
    this._poll = new Poll({
      name: 'nbft:runs',
      factory: () => this._ask(),
      frequency: { interval: STATUS_MS, backoff: true, max: LONGEST_WAIT_MS },
      standby: 'when-hidden' // the whole page
    });
  }

  /** Emitted when anything here has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get runs(): readonly IRun[] {
    return this._runs;
  }

  /** How many runs match the search, of which `runs` holds the first. */
  get matching(): number {
    return this._matching;
  }

  get total(): number {
    return this._total;
  }

  /** Whether the server has answered at all. */
  get isReady(): boolean {
    return this._isReady;
  }

  /** One sentence for whoever looks at the panel; empty when all is well. */
  get notice(): string {
    return this._error || this._mismatch;
  }

  get search(): string {
    return this._search;
  }

  set search(text: string) {
    this._search = text;
    this._changed.emit();
    this.refresh();
  }

  /** Ids of the runs chosen for a comparison, in the order of choosing. */
  get selected(): readonly string[] {
    return this._selected;
  }

  get canCompare(): boolean {
    return this._selected.length > 1 && this._selected.length <= LARGEST_COMPARISON;
  }

  select(id: string, isSelected: boolean): void {
    this._selected = this._selected.filter(other => other !== id);
    if (isSelected) {
      this._selected.push(id);
    }
    this._changed.emit();
  }

  /** Whether the panel is on screen. */
  set isShown(isShown: boolean) {
    this._isShown = isShown;
    if (isShown) {
      this.refresh();
    } else {
      this._schedule();
      void this._poll.schedule(); // what was planned for the panel no longer counts
    }
  }

  /** Milliseconds between two looks at runs that are at work. */
  set interval(ms: number) {
    this._interval = ms;
    this._schedule();
  }

  /** The first run that trains, for the status bar. */
  get running(): IRun | undefined {
    return this._atWork.find(run => run.status === 'running');
  }

  refresh(): void {
    void this._poll.refresh();
  }

  private async _ask(): Promise<void> {
    const search = this._search;
    try {
      const { runs, matching, total, version: server } = await this.api.runs(search);
      if (search !== this._search) {
        return; // an answer to an older question
      }
      this._runs = runs;
      this._matching = matching;
      this._total = total;
      // A search may hide what trains; the status bar remembers it until it is seen again.
      const seen = new Map(runs.map(run => [run.id, run]));
      const before = search ? this._atWork.map(run => seen.get(run.id) ?? run) : [];
      this._atWork = [...new Map([...before, ...runs].map(run => [run.id, run])).values()].filter(
        isAtWork
      );
      if (!search && matching === runs.length) {
        this._selected = this._selected.filter(id => seen.has(id));
      }
      this._isReady = true;
      this._error = '';
      this._mismatch =
        server === version
          ? ''
          : `The panel is of nbft ${version} and the server of nbft ${server}. ` +
            'Restart the Jupyter server and reload this page.';
    } catch (error) {
      this._error = (error as Error).message;
      throw error; // the poll waits longer after each
    } finally {
      this._schedule();
      this._changed.emit();
    }
  }

  /** Set how long the poll waits: for ever when nobody looks and nothing trains. */
  private _schedule(): void {
    const watched = this._atWork.length ? this._interval : IDLE_FACTOR * this._interval;
    const unwatched = this._atWork.length ? STATUS_MS : Poll.NEVER;
    const interval = this._isShown ? watched : unwatched;
    this._poll.frequency = { interval, backoff: true, max: Math.max(interval, LONGEST_WAIT_MS) };
  }

  private readonly _poll: Poll;
  private readonly _changed = new Signal<this, void>(this);
  private _runs: IRun[] = [];
  private _atWork: IRun[] = [];
  private _matching = 0;
  private _total = 0;
  private _isReady = false;
  private _error = '';
  private _mismatch = '';
  private _search = '';
  private _selected: string[] = [];
  private _isShown = false;
  private _interval = 2000;
}
