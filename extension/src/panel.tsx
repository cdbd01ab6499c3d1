import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import * as React from 'react';

import { IRun } from './api';
import { SmallCurve } from './curves';
import { LARGEST_COMPARISON, RunsModel } from './model';
import { duration, heading, isAtWork, measured, progress } from './formatting';

export interface IPanelActions {
  open(id: string): void;
  compare(ids: readonly string[]): void;
  newNotebook(): void;
}

/** The side panel: every run, those at work first. */
export class RunsPanel extends ReactWidget {
  constructor(
    private readonly _model: RunsModel,
    private readonly _actions: IPanelActions
  ) {
    super();
    this.id = 'nbft-runs';
    this.addClass('nbft-panel');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'Fine-tuning runs');
  }

  protected render(): React.ReactElement {
    return (
      <UseSignal signal={this._model.changed}>
        {() => <Panel model={this._model} actions={this._actions} />}
      </UseSignal>
    );
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this._model.isShown = true;
  }

  protected onAfterHide(msg: Message): void {
    super.onAfterHide(msg);
    this._model.isShown = false;
  }
}

interface IPanelProps {
  model: RunsModel;
  actions: IPanelActions;
}

function Panel({ model, actions }: IPanelProps): React.ReactElement {
  const { runs, matching, notice, search, selected, isReady } = model;
  const isEmpty = isReady && model.total === 0;
  return (
    <>
      {!isEmpty && (
        <div className="nbft-panel-head">
          <input
            className="nbft-search"
            type="search"
            aria-label="Find a run"
            placeholder="Find a run"
            value={search}
            onChange={event => (model.search = event.target.value)}
          />
          <button
            className="nbft-button"
            disabled={!model.canCompare}
            title={`Choose two to ${LARGEST_COMPARISON} runs to compare`}
            onClick={() => actions.compare(selected)}
          >
            Compare{selected.length ? ` ${selected.length}` : ''}
          </button>
          <button className="nbft-button" onClick={actions.newNotebook}>
            New
          </button>
        </div>
      )}
      <div role="status" aria-label="Notice" className="nbft-notice">
        {notice}
      </div>
      {isEmpty && (
        <div className="nbft-empty">
          <p>No model has been fine-tuned here yet.</p>
          <button className="nbft-button nbft-mod-main" onClick={actions.newNotebook}>
            Fine-tune a model
          </button>
        </div>
      )}
      {isReady && !isEmpty && !runs.length && <p className="nbft-empty">No run matches.</p>}
      <div className="nbft-runs">
        {grouped(runs).map(([title, group]) => (
          <section key={title} aria-label={title}>
            <h2>{title}</h2>
            <ul>
              {group.map(run => (
                <Row key={run.id} run={run} model={model} open={actions.open} />
              ))}
            </ul>
          </section>
        ))}
        {matching > runs.length && (
          <p className="nbft-empty">
            The first {runs.length} of {matching.toLocaleString('en')} runs. A search finds the
            others.
          </p>
        )}
      </div>
    </>
  );
}

/** The runs below their headings, in the order that they have. */
function grouped(runs: readonly IRun[]): [string, IRun[]][] {
  const now = new Date();
  const groups = new Map<string, IRun[]>();
  for (const run of runs) {
    const title = heading(run, now);
    groups.set(title, [...(groups.get(title) ?? []), run]);
  }
  return [...groups];
}

interface IRowProps {
  run: IRun;
  model: RunsModel;
  open: (id: string) => void;
}

function Row({ run, model, open }: IRowProps): React.ReactElement {
  const left = run.seconds_left === null ? NaN : Number(run.seconds_left);
  const facts = [
    progress(run),
    isFinite(left) ? `${duration(left)} left` : '',
    run.loss === null ? '' : `loss ${measured(run.loss)}`
  ].filter(Boolean);
  return (
    <li className="nbft-row" data-status={run.status}>
      <input
        type="checkbox"
        aria-label={`Choose ${run.name} to compare`}
        checked={model.selected.includes(run.id)}
        onChange={event => model.select(run.id, event.target.checked)}
      />
      <button className="nbft-row-open" onClick={() => open(run.id)} title={run.path}>
        <span className="nbft-row-line">
          <span className="nbft-row-name">{run.name}</span>
          <StatusWord run={run} />
        </span>
        <span className="nbft-row-line">
          <span className="nbft-muted nbft-row-what">
            {[run.model, run.method, run.data].filter(Boolean).join(' · ')}
          </span>
          <SmallCurve run={run} />
        </span>
        <span className="nbft-row-line">
          <span className="nbft-row-facts">
            {facts.map((fact, i) => (
              <span key={i}>{i < facts.length - 1 ? `${fact} · ` : fact}</span>
            ))}
          </span>
        </span>
      </button>
    </li>
  );
}

export function StatusWord({ run }: { run: IRun }): React.ReactElement {
  return (
    <span className="nbft-status" data-status={run.status} data-at-work={isAtWork(run)}>
      {run.status}
    </span>
  );
}
