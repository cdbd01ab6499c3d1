import { Dialog, showDialog } from '@jupyterlab/apputils';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { Poll } from '@lumino/polling';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { Api, Command, IDetails } from './api';
import { Chart } from './curves';
import { History } from './history';
import { StatusWord } from './panel';
import { Answers, Scores } from './scores';
import { duration, isAtWork, measured, progress, setting } from './formatting';

const IDLE_FACTOR = 5;
const STARTING = 'Starting a new run …';

/** A button that asks something of a run: what it says, and what is said until the run answers. */
const BUTTONS: [Command | 'resume', string, string][] = [
  ['stop', 'Stop', 'Stopping after this step …'],
  ['pause', 'Pause', 'Pausing after this step …'],
  ['continue', 'Continue', 'Continuing …'],
  ['save', 'Save', 'Saving after this step …'],
  ['sample', 'Sample', 'Asking the model after this step …'],
  ['move_up', 'Move up', 'Moving up …'],
  ['resume', 'Resume', 'Going on from the last checkpoint …']
];

export interface IDetailsActions {
  openFolder: ((folder: string) => void) | null;
  insertCell(path: string): void;
  /** Show another run. */
  openRun(id: string): void;
  /** The run has changed or is gone. */
  changed(): void;
}

/** One run: its curves, settings and log, and the buttons that command it. */
export class RunDetails extends ReactWidget {
  constructor(
    readonly api: Api,
    readonly runId: string,
    readonly actions: IDetailsActions,
    private readonly _interval: () => number
  ) {
    super();
    this.addClass('nbft-details');
    this.title.caption = `Run ${this.name}`;
    this.history = new History(api, runId);
    this._poll = new Poll({
      name: `nbft:run:${runId}`,
      auto: false,
      factory: () => this._ask(),
      frequency: { interval: 2000, backoff: true },
      standby: 'when-hidden'
    });
  }

  readonly history: History;
  readonly changed = new Signal<this, void>(this);
  run: IDetails | null = null;
  log = '';

  /** Why the run could not be read; the next reading says it again or not. */
  error = '';

  /** Why the last thing that was asked for was refused; it stays until something else is asked. */
  refused = '';

  /** What was asked of the run and not answered yet. */
  pending = '';

  get name(): string {
    return this.runId.slice(0, this.runId.lastIndexOf('~'));
  }

  async ask(command: Command | 'resume', text: string): Promise<void> {
    this.pending = text;
    this.refused = '';
    this._asked = this.history.said;
    this.changed.emit();
    try {
      await (command === 'resume'
        ? this.api.resume(this.runId)
        : this.api.command(this.runId, command));
      this.actions.changed();
    } catch (error) {
      this.pending = '';
      this.refused = (error as Error).message;
    }
    this.changed.emit();
    void this._poll.refresh();
  }

  /** Start a new run with a fix, and show it. */
  async retry(fix: number): Promise<void> {
    this.pending = STARTING;
    this.refused = '';
    this.changed.emit();
    try {
      const { id } = await this.api.retry(this.runId, fix);
      this.actions.changed();
      this.actions.openRun(id);
    } catch (error) {
      this.refused = (error as Error).message;
    }
    this.pending = '';
    this.changed.emit();
  }

  async cancel(): Promise<void> {
    if (
      await isSure(
        `Cancel ${this.name}?`,
        'It ends at once, and what was trained since the last checkpoint is lost. ' +
          'Stop ends it after the step it is at and saves everything.',
        'Let it run',
        'Cancel the run'
      )
    ) {
      await this.ask('cancel', 'Cancelling …');
    }
  }

  async delete(): Promise<void> {
    const what = 'Its folder is deleted for good, with the adapter, the checkpoints and the log:';
    if (!(await isSure(`Delete ${this.name}?`, `${what} ${this.run?.path}`, 'Cancel', 'Delete'))) {
      return;
    }
    try {
      await this.api.delete(this.runId);
      this.actions.changed();
      this.parent?.close();
    } catch (error) {
      this.refused = (error as Error).message;
      this.changed.emit();
    }
  }

  dispose(): void {
    this._poll.dispose();
    super.dispose();
  }

  protected render(): React.ReactElement {
    return <UseSignal signal={this.changed}>{() => <Details widget={this} />}</UseSignal>;
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    void this._poll.refresh();
  }

  protected onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    if (this.isVisible) {
      void this._poll.refresh();
    }
  }

  protected onAfterHide(msg: Message): void {
    super.onAfterHide(msg);
    void this._poll.stop();
  }

  private async _ask(): Promise<void> {
    try {
      await this.history.refresh();
      const run = await this.api.details(this.runId);
      this.log = (await this.api.log(this.runId)).text;
      if (this.history.said !== this._asked || run.status !== this.run?.status) {
        this.pending = '';
      }
      this.run = run;
      this.error = '';
      const interval = this._interval() * (isAtWork(run) ? 1 : IDLE_FACTOR);
      this._poll.frequency = { interval, backoff: true, max: 60_000 };
    } catch (error) {
      this.error = (error as Error).message;
      throw error;
    } finally {
      this.changed.emit();
    }
  }

  private readonly _poll: Poll;
  private _asked = 0;
}

async function isSure(title: string, body: string, no: string, yes: string): Promise<boolean> {
  const { button } = await showDialog({
    title,
    body,
    buttons: [Dialog.cancelButton({ label: no }), Dialog.warnButton({ label: yes })],
    defaultButton: 0
  });
  return button.accept;
}

function Details({ widget }: { widget: RunDetails }): React.ReactElement {
  const { run, error, refused, pending, history } = widget;
  const { charts, scores, answers, smoothing } = history;
  const told = React.useMemo(
    () => (
      <>
        <Scores scores={scores} smoothing={smoothing} />
        <Answers answers={answers} />
      </>
    ),
    [scores, answers, smoothing]
  );
  if (!run) {
    return <p role="status">{error || 'Reading …'}</p>;
  }
  return (
    <>
      <div className="nbft-details-head">
        <h1>{run.name}</h1>
        <StatusWord run={run} />
        <span>{facts(run)}</span>
      </div>
      <p className="nbft-muted">
        {[run.model, run.method, run.data].filter(Boolean).join(' · ')}
        {run.rows === null ? '' : ` (${run.rows.toLocaleString('en')} rows)`}
      </p>
      <Buttons widget={widget} run={run} />
      <p role="status" aria-label="Answer" className="nbft-notice">
        {refused || error || pending}
      </p>
      {run.problems.map(problem => (
        <p key={problem} className="nbft-notice">
          {problem}
        </p>
      ))}
      {run.fixes.length > 0 && <Fixes widget={widget} fixes={run.fixes} />}
      <div className="nbft-charts">
        {charts.map(chart => (
          <Chart key={chart.title} {...chart} smoothing={smoothing} />
        ))}
      </div>
      {history.notes.length > 0 && <Notes notes={history.notes} />}
      {told}
      <h2>Settings that differ from the defaults</h2>
      <Settings
        columns={['default', 'this run']}
        rows={Object.entries(run.settings).map(([path, values]) => [path, values])}
      />
      <h2>Log</h2>
      <pre className="nbft-log" tabIndex={0} aria-label="Log">
        {widget.log || 'The log is empty so far.'}
      </pre>
      <p className="nbft-muted nbft-path">{run.path}</p>
    </>
  );
}

function facts(run: IDetails): string {
  const left = run.seconds_left === null ? NaN : Number(run.seconds_left);
  return [
    progress(run),
    isFinite(left) ? `${duration(left)} left` : '',
    run.ended ? `took ${duration(run.ended - run.started)}` : '',
    run.loss === null ? '' : `loss ${measured(run.loss)}`,
    run.eval_loss === null ? '' : `held-out loss ${measured(run.eval_loss)}`
  ]
    .filter(Boolean)
    .join(' · ');
}

function Buttons({ widget, run }: { widget: RunDetails; run: IDetails }): React.ReactElement {
  const { openFolder, insertCell } = widget.actions;
  return (
    <div className="nbft-buttons" role="group" aria-label="Commands">
      {BUTTONS.filter(([command]) => run.allowed.includes(command)).map(
        ([command, label, pending]) => (
          <button
            key={command}
            className="nbft-button"
            disabled={widget.pending === pending}
            onClick={() => void widget.ask(command, pending)}
          >
            {label}
          </button>
        )
      )}
      {run.allowed.includes('cancel') && (
        <button className="nbft-button" onClick={() => void widget.cancel()}>
          Cancel
        </button>
      )}
      {run.allowed.includes('delete') && (
        <button className="nbft-button" onClick={() => void widget.delete()}>
          Delete
        </button>
      )}
      {openFolder && run.folder !== null && (
        <button className="nbft-button" onClick={() => openFolder(run.folder!)}>
          Open folder
        </button>
      )}
      <button className="nbft-button" onClick={() => insertCell(run.path)}>
        Insert a cell
      </button>
    </div>
  );
}

function Fixes({ widget, fixes }: { widget: RunDetails; fixes: string[] }): React.ReactElement {
  return (
    <>
      <p>Each of these changes needs less. Those that train the same come first.</p>
      <div className="nbft-buttons nbft-fixes" role="group" aria-label="Run again">
        {fixes.map((fix, i) => (
          <button
            key={fix}
            className="nbft-button"
            disabled={widget.pending === STARTING}
            onClick={() => void widget.retry(i)}
          >
            {fix}
          </button>
        ))}
      </div>
    </>
  );
}

function Notes({ notes }: { notes: string[] }): React.ReactElement {
  return (
    <>
      <h2>Notes</h2>
      <ul>
        {notes.map((note, i) => (
          <li key={i}>{note}</li>
        ))}
      </ul>
    </>
  );
}

interface ISettingsProps {
  columns: string[];
  rows: [string, unknown[]][];
}

/** Settings in rows, a column for each run. */
export function Settings({ columns, rows }: ISettingsProps): React.ReactElement {
  if (!rows.length) {
    return <p>None.</p>;
  }
  return (
    <div className="nbft-scroll" tabIndex={0} role="group" aria-label="Settings">
      <table className="nbft-settings">
        <thead>
          <tr>
            <th scope="col">setting</th>
            {columns.map(column => (
              <th key={column} scope="col">
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(([path, values]) => (
            <tr key={path}>
              <th scope="row">{path}</th>
              {values.map((value, i) => (
                <td key={i}>{setting(value)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
