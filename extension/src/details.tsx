import { Dialog, showDialog } from '@jupyterlab/apputils';
import { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { Poll } from '@lumino/polling';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { Api, Command, IDetails, IExportRequest, IExports } from './api';
import { Chart } from './curves';
import { ExportForm, ExportList, uploadQuestion } from './exports';
import { chartKey, History } from './history';
import { StatusWord } from './panel';
import { Answers, Scores } from './scores';
import {
  duration,
  isActive,
  lossSoFar,
  measured,
  progress,
  runName,
  setting,
  timeLeft
} from './formatting';

const IDLE_FACTOR = 5;

/** Buttons that command a run: [command, label, what is shown until the run reacts]. */
function buttons(trans: TranslationBundle): [Command | 'resume', string, string][] {
  return [
    ['stop', trans.__('Stop'), trans.__('Stopping after this step…')],
    ['pause', trans.__('Pause'), trans.__('Pausing after this step…')],
    ['continue', trans.__('Continue'), trans.__('Continuing…')],
    ['save', trans.__('Save'), trans.__('Saving after this step…')],
    ['sample', trans.__('Sample'), trans.__('Sampling after this step…')],
    ['move_up', trans.__('Move up'), trans.__('Moving up…')],
    ['resume', trans.__('Resume'), trans.__('Resuming from the last checkpoint…')]
  ];
}

export interface IDetailsActions {
  openFolder: ((folder: string) => Promise<void>) | null;
  insertCell(path: string): Promise<void>;
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
    private readonly _interval: () => number,
    readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('nbft-details');
    this.title.caption = trans.__('Run %1', this.name);
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

  /** How the run can be exported, and its exports; null while it trains. */
  exports: IExports | null = null;

  /** Why the last export was refused, until another one is started. */
  exportRefused = '';

  /** Why the run could not be read, until a later reading succeeds. */
  error = '';

  /** Why the last command was refused, until another one is given. */
  refused = '';

  /** The command that the run has not reacted to yet. */
  pending = '';

  get name(): string {
    return runName(this.runId);
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
    this.pending = this.trans.__('Starting a new run…');
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

  /** Start an export, after asking about an upload. */
  async export(request: IExportRequest): Promise<void> {
    const { trans } = this;
    const question = uploadQuestion(this.name, request, trans);
    if (
      question &&
      !(await isSure(
        trans.__('Upload %1?', this.name),
        question,
        trans.__('No'),
        trans.__('Upload')
      ))
    ) {
      return;
    }
    await this._aboutExports(() => this.api.export(this.runId, request));
  }

  async stopExport(): Promise<void> {
    await this._aboutExports(() => this.api.stopExport(this.runId));
  }

  private async _aboutExports(ask: () => Promise<IExports>): Promise<void> {
    this.exportRefused = '';
    try {
      this.exports = await ask();
    } catch (error) {
      this.exportRefused = (error as Error).message;
    }
    this.changed.emit();
    void this._poll.refresh();
  }

  async cancel(): Promise<void> {
    const { trans } = this;
    if (
      await isSure(
        trans.__('Cancel %1?', this.name),
        trans.__(
          'The run ends immediately and all progress since the last checkpoint is lost. ' +
            'To keep it, use Stop instead: it saves everything after the current step.'
        ),
        trans.__('Keep running'),
        trans.__('Cancel the run')
      )
    ) {
      await this.ask('cancel', trans.__('Cancelling…'));
    }
  }

  async delete(): Promise<void> {
    const { trans } = this;
    const host = this.run?.host ?? null;
    const silent =
      host === null ? '' : trans.__('%1 may still be training it. Check there first. ', host);
    const what = trans.__(
      'This permanently deletes the adapter, the checkpoints, the log and everything else that nbft wrote into its folder: %1',
      this.run?.path ?? ''
    );
    if (
      !(await isSure(
        trans.__('Delete %1?', this.name),
        silent + what,
        trans.__('Cancel'),
        trans.__('Delete')
      ))
    ) {
      return;
    }
    try {
      const answer = await this.api.delete(this.runId);
      this.actions.changed();
      if (answer) {
        await showDialog({
          title: trans.__('Deleted %1', this.name),
          body: trans.__(
            'Other files are still in its folder %1: %2',
            this.run?.path ?? '',
            answer.left.join(', ')
          ),
          buttons: [Dialog.okButton({ label: trans.__('OK') })]
        });
      }
      this.parent?.close();
    } catch (error) {
      this.refused = (error as Error).message;
      this.changed.emit();
    }
  }

  /** Read the run again now, if the tab is visible. */
  refresh(): void {
    if (this.isVisible) {
      void this._poll.refresh();
    }
  }

  dispose(): void {
    this._poll.dispose();
    Signal.clearData(this);
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
    this.refresh();
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
      // A server of an earlier version does not know exports.
      this.exports = isActive(run) ? null : await this.api.exports(this.runId).catch(() => null);
      if (this.history.said !== this._asked || run.status !== this.run?.status) {
        this.pending = '';
      }
      this.run = run;
      this.error = '';
      const isBusy = isActive(run) || this.exports?.last?.is_going;
      const interval = this._interval() * (isBusy ? 1 : IDLE_FACTOR);
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
  const { run, error, refused, pending, history, exports, trans } = widget;
  const { charts, scores, answers, smoothing } = history;
  const told = React.useMemo(
    () => (
      <>
        <Scores scores={scores} smoothing={smoothing} trans={trans} />
        <Answers answers={answers} trans={trans} />
      </>
    ),
    [scores, answers, smoothing, trans]
  );
  if (!run) {
    return <p role="status">{error || trans.__('Loading…')}</p>;
  }
  return (
    <>
      <div className="nbft-details-head">
        <h1>{run.name}</h1>
        <StatusWord run={run} trans={trans} />
        <span>{facts(run, trans)}</span>
      </div>
      <p className="nbft-muted">
        {[run.model, run.method, run.data].filter(Boolean).join(' · ')}
        {run.rows !== null &&
          ` (${trans._n('%2 row', '%2 rows', run.rows, run.rows.toLocaleString('en'))})`}
      </p>
      <Buttons widget={widget} run={run} />
      <p role="status" aria-label={trans.__('Answer')} className="nbft-notice">
        {refused || error || pending}
      </p>
      {run.problems.map(problem => (
        <p key={problem} className="nbft-notice">
          {problem}
        </p>
      ))}
      {run.fixes.length > 0 && <Fixes widget={widget} fixes={run.fixes} />}
      {exports && (
        <ExportForm
          exports={exports}
          refused={widget.exportRefused}
          start={request => void widget.export(request)}
          stop={() => void widget.stopExport()}
          trans={trans}
        />
      )}
      <div className="nbft-charts">
        {charts.map(chart => (
          <Chart key={chartKey(chart)} {...chart} smoothing={smoothing} trans={trans} />
        ))}
      </div>
      {history.notes.length > 0 && <Notes notes={history.notes} trans={trans} />}
      {told}
      {exports && (
        <ExportList
          exports={exports.exports}
          openFolder={widget.actions.openFolder}
          trans={trans}
        />
      )}
      <h2>{trans.__('Settings changed from defaults')}</h2>
      <Settings
        columns={[trans.__('default'), trans.__('this run')]}
        rows={Object.entries(run.settings)}
        trans={trans}
      />
      <h2>{trans.__('Log')}</h2>
      <pre className="nbft-log" tabIndex={0} aria-label={trans.__('Log')}>
        {widget.log || trans.__('The log is empty.')}
      </pre>
      <p className="nbft-muted nbft-path">{run.path}</p>
    </>
  );
}

function facts(run: IDetails, trans: TranslationBundle): string {
  return [
    progress(run, trans),
    run.stage,
    timeLeft(run, trans),
    run.ended ? trans.__('took %1', duration(run.ended - run.started)) : '',
    lossSoFar(run, trans),
    run.eval_loss === null ? '' : trans.__('held-out loss %1', measured(run.eval_loss, trans))
  ]
    .filter(Boolean)
    .join(' · ');
}

function Buttons({ widget, run }: { widget: RunDetails; run: IDetails }): React.ReactElement {
  const { trans } = widget;
  const { openFolder, insertCell } = widget.actions;
  const folder = run.folder;
  return (
    <div className="nbft-buttons" role="group" aria-label={trans.__('Commands')}>
      {buttons(trans)
        .filter(([command]) => run.allowed.includes(command))
        .map(([command, label, pending]) => (
          <button
            key={command}
            className="nbft-button"
            disabled={widget.pending === pending}
            onClick={() => void widget.ask(command, pending)}
          >
            {label}
          </button>
        ))}
      {run.allowed.includes('cancel') && (
        <button className="nbft-button" onClick={() => void widget.cancel()}>
          {trans.__('Cancel')}
        </button>
      )}
      {run.allowed.includes('delete') && (
        <button className="nbft-button" onClick={() => void widget.delete()}>
          {trans.__('Delete')}
        </button>
      )}
      {openFolder && folder !== null && (
        <button className="nbft-button" onClick={() => void openFolder(folder)}>
          {trans.__('Open folder')}
        </button>
      )}
      <button className="nbft-button" onClick={() => void insertCell(run.path)}>
        {trans.__('Insert a cell')}
      </button>
    </div>
  );
}

function Fixes({ widget, fixes }: { widget: RunDetails; fixes: string[] }): React.ReactElement {
  const { trans } = widget;
  return (
    <>
      <p>
        {trans.__(
          'Each of these changes needs less memory. Those that do not change the result come first.'
        )}
      </p>
      <div className="nbft-buttons nbft-fixes" role="group" aria-label={trans.__('Run again')}>
        {fixes.map((fix, i) => (
          <button
            key={fix}
            className="nbft-button"
            disabled={widget.pending !== ''}
            onClick={() => void widget.retry(i)}
          >
            {fix}
          </button>
        ))}
      </div>
    </>
  );
}

interface INotesProps {
  notes: string[];
  trans: TranslationBundle;
}

function Notes({ notes, trans }: INotesProps): React.ReactElement {
  return (
    <>
      <h2>{trans.__('Notes')}</h2>
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
  trans: TranslationBundle;
}

/** Settings in rows, a column for each run. */
export function Settings({ columns, rows, trans }: ISettingsProps): React.ReactElement {
  if (!rows.length) {
    return <p>{trans.__('None.')}</p>;
  }
  return (
    <div className="nbft-scroll" tabIndex={0} role="group" aria-label={trans.__('Settings')}>
      <table className="nbft-settings">
        <thead>
          <tr>
            <th scope="col">{trans.__('setting')}</th>
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
                <td key={i}>{setting(value, trans)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
