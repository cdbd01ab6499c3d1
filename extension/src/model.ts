import { nullTranslator, TranslationBundle } from '@jupyterlab/translation';
import { Poll } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';

import { version } from '../package.json';
import { Api, IRun } from './api';
import { isActive } from './formatting';

const LONGEST_WAIT_MS = 60_000;
const STATUS_MS = 15_000;
const IDLE_FACTOR = 5;

export const LARGEST_COMPARISON = 6;

/**
 * The list of runs, kept up to date while the panel is visible.
 *
 * While it is hidden the server is asked only for the status bar: slowly, and only if a run is
 * known to be active.
 */
export class RunsModel {
  constructor(
    readonly api: Api,
    private readonly _trans: TranslationBundle = nullTranslator.load('nbft')
  ) {
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

  /** Emitted when other runs are selected. */
  get selectionChanged(): ISignal<this, void> {
    return this._selectionChanged;
  }

  get runs(): readonly IRun[] {
    return this._runs;
  }

  /** How many runs match the search, of which `runs` holds the first. */
  get matching(): number {
    return this._matching;
  }

  /** Whether the server has answered at all. */
  get isReady(): boolean {
    return this._isReady;
  }

  /** Whether there is no run at all. */
  get isEmpty(): boolean {
    return this._isReady && this._total === 0;
  }

  /** What is wrong, in one sentence; empty when nothing is. */
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

  /** Ids of the runs selected for a comparison, in the order of selection. */
  get selected(): readonly string[] {
    return this._selected;
  }

  get canCompare(): boolean {
    return this._selected.length > 1 && this._selected.length <= LARGEST_COMPARISON;
  }

  select(id: string, isSelected: boolean): void {
    const others = this._selected.filter(other => other !== id);
    this._setSelected(isSelected ? [...others, id] : others);
    this._changed.emit();
  }

  /** Whether the panel is on screen. */
  set isShown(isShown: boolean) {
    this._isShown = isShown;
    if (isShown) {
      this.refresh();
    } else {
      this._schedule();
      void this._poll.schedule(); // drops what was planned for the panel
    }
  }

  /** Milliseconds between two refreshes while a run is active. */
  set interval(ms: number) {
    this._interval = ms;
    this._schedule();
    if (this._isShown) {
      this.refresh(); // instead of after the old interval
    }
  }

  /** The first run that trains, for the status bar. */
  get running(): IRun | undefined {
    return this._active.find(run => run.status === 'running');
  }

  refresh(): void {
    void this._poll.refresh();
  }

  dispose(): void {
    this._poll.dispose();
    Signal.clearData(this);
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
      // A search may hide active runs; the status bar keeps them until they are listed again.
      const seen = new Map(runs.map(run => [run.id, run]));
      const before = search ? this._active.map(run => seen.get(run.id) ?? run) : [];
      this._active = [...new Map([...before, ...runs].map(run => [run.id, run])).values()].filter(
        isActive
      );
      if (!search && matching === runs.length) {
        this._setSelected(this._selected.filter(id => seen.has(id)));
      }
      this._isReady = true;
      this._error = '';
      this._mismatch =
        server === version
          ? ''
          : this._trans.__(
              'This page uses nbft %1 but the server runs nbft %2. ' +
                'Restart the Jupyter server and reload the page.',
              version,
              server
            );
    } catch (error) {
      this._error = (error as Error).message;
      throw error; // makes the poll back off
    } finally {
      this._schedule();
      this._changed.emit();
    }
  }

  /** Set how long the poll waits: forever while the panel is hidden and no run is active. */
  private _schedule(): void {
    const watched = this._active.length ? this._interval : IDLE_FACTOR * this._interval;
    const unwatched = this._active.length ? STATUS_MS : Poll.NEVER;
    const interval = this._isShown ? watched : unwatched;
    this._poll.frequency = { interval, backoff: true, max: Math.max(interval, LONGEST_WAIT_MS) };
  }

  private _setSelected(ids: string[]): void {
    if (ids.join() !== this._selected.join()) {
      this._selected = ids;
      this._selectionChanged.emit();
    }
  }

  private readonly _poll: Poll;
  private readonly _selectionChanged = new Signal<this, void>(this);
  private readonly _changed = new Signal<this, void>(this);
  private _runs: IRun[] = [];
  private _active: IRun[] = [];
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
