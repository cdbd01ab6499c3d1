import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { IEvent, JsonNumber } from './api';
import { Chart } from './curves';
import { measured } from './formatting';

// Okabe and Ito's palette, which colour-blind people tell apart.
const COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00'];

// The names that nbft/evaluate/metrics.py knows; a person's own scores keep theirs.
const LABELS: Record<string, string> = {
  rouge1: 'ROUGE-1',
  rouge2: 'ROUGE-2',
  rougeL: 'ROUGE-L',
  exact_match: 'exact match'
};
const SHARES = ['rouge1', 'rouge2', 'rougeL', 'exact_match', 'format'];
const YES_OR_NO = ['exact_match', 'format'];

type Numbers = Record<string, JsonNumber>;

function label(name: string): string {
  return LABELS[name] ?? name;
}

/** A score as people read it: rows that have it are counted. */
function shown(
  name: string,
  value: JsonNumber | undefined,
  rows: number,
  trans: TranslationBundle
): string {
  if (value === undefined) {
    return trans.__('not scored');
  }
  if (YES_OR_NO.includes(name)) {
    const share = Number(value);
    return trans.__('%1% (%2 of %3)', Math.round(share * 100), Math.round(share * rows), rows);
  }
  return measured(value, trans);
}

interface IEventsProps {
  events: readonly IEvent[];
  trans: TranslationBundle;
}

/** The scores of the answers: the base model beside the last step, and the steps between. */
export function Scores({ events, trans }: IEventsProps): React.ReactElement | null {
  const found = events.filter(({ event }) => event === 'scores');
  if (!found.length) {
    return null;
  }
  const splits = [...new Set(found.map(one => one['split'] as string))];
  const heldOut = found.filter(one => one['split'] !== 'test');
  return (
    <>
      <h2>{trans.__('Scores')}</h2>
      {splits.map(split => (
        <ScoreTable
          key={split}
          isTest={split === 'test'}
          events={found.filter(one => one['split'] === split)}
          trans={trans}
        />
      ))}
      <div className="nbft-charts">
        {groups(heldOut, trans).map(([title, names]) => (
          <Chart
            key={[title, ...names].join(' ')}
            title={title}
            series={names.map((name, i) => ({
              name,
              label: label(name),
              color: COLORS[i % COLORS.length],
              style: 'line',
              smooth: false
            }))}
            rows={points(heldOut, names)}
            trans={trans}
          />
        ))}
      </div>
    </>
  );
}

interface IScoreTableProps {
  isTest: boolean;
  events: IEvent[];
  trans: TranslationBundle;
}

function ScoreTable({ isTest, events, trans }: IScoreTableProps): React.ReactElement {
  const isBase = (one: IEvent) => one['step'] === 0;
  const base = events.filter(isBase).at(-1);
  const last = events.filter(one => !isBase(one)).at(-1);
  const rows = (last ?? base)!['rows'] as number;
  const scores = (one?: IEvent) => (one?.['scores'] ?? {}) as Numbers;
  const verdicts = (last?.['verdicts'] ?? {}) as Record<string, string>;
  return (
    <div
      className="nbft-scroll"
      tabIndex={0}
      role="group"
      aria-label={isTest ? trans.__('Scores of test rows') : trans.__('Scores of held-out rows')}
    >
      <table className="nbft-settings">
        <caption>
          {isTest
            ? trans._n('%1 test row', '%1 test rows', rows)
            : trans._n('%1 held-out row', '%1 held-out rows', rows)}
        </caption>
        <thead>
          <tr>
            <th scope="col">{trans.__('score')}</th>
            <th scope="col">{trans.__('base model')}</th>
            <th scope="col">
              {last ? trans.__('after step %1', String(last['step'])) : trans.__('tuned')}
            </th>
            <th scope="col">{trans.__('difference')}</th>
          </tr>
        </thead>
        <tbody>
          {Object.keys(scores(last ?? base)).map(key => (
            <tr key={key}>
              <th scope="row">{label(key)}</th>
              <td>{shown(key, scores(base)[key], rows, trans)}</td>
              <td>{last ? shown(key, scores(last)[key], rows, trans) : ''}</td>
              <td>{verdicts[key] ?? ''}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The answers to the same prompts, step by step; each prompt is expanded on request. */
export function Answers({ events, trans }: IEventsProps): React.ReactElement | null {
  const prompts = new Map<string, Map<number, string>>();
  for (const one of events.filter(({ event }) => event === 'sample')) {
    for (const { prompt, text } of one['samples'] as { prompt: string; text: string }[]) {
      const answers = prompts.get(prompt) ?? new Map<number, string>();
      prompts.set(prompt, answers.set(one['step'] as number, text));
    }
  }
  if (!prompts.size) {
    return null;
  }
  return (
    <>
      <h2>{trans.__('Answers')}</h2>
      {[...prompts].map(([prompt, answers]) => (
        <details key={prompt} className="nbft-answers">
          <summary>{prompt.trim().replace(/\s+/g, ' ').slice(-100)}</summary>
          <p>{prompt.trim()}</p>
          <table className="nbft-settings">
            <tbody>
              {[...answers]
                .sort((a, b) => a[0] - b[0])
                .map(([step, text]) => (
                  <tr key={step}>
                    <th scope="row">{step ? trans.__('step %1', step) : trans.__('base model')}</th>
                    <td>{text}</td>
                  </tr>
                ))}
            </tbody>
          </table>
        </details>
      ))}
    </>
  );
}

/** The scores sorted into charts of one scale each: [title, names]. */
function groups(events: IEvent[], trans: TranslationBundle): [string, string[]][] {
  const names = [...new Set(events.flatMap(one => Object.keys(one['scores'] as Numbers)))];
  const shares = names.filter(name => SHARES.includes(name));
  const rest = names.filter(name => !SHARES.includes(name));
  return [
    ...(shares.length ? ([[trans.__('scores, 0 to 1'), shares]] as [string, string[]][]) : []),
    ...rest.map((name): [string, string[]] => [label(name), [name]])
  ];
}

/** [step, value of each score…] in the order of the steps; what is said again counts once. */
function points(events: IEvent[], names: string[]): number[][] {
  const rows = new Map<number, number[]>();
  for (const one of events) {
    const scores = one['scores'] as Numbers;
    const step = one['step'] as number;
    rows.set(step, [step, ...names.map(name => Number(scores[name] ?? 'NaN'))]);
  }
  return [...rows.values()].sort((a, b) => a[0] - b[0]);
}
