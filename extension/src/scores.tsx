import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { IAnswers, IScores } from './api';
import { Chart } from './curves';
import { chartKey, drawing } from './history';

interface IScoresProps {
  scores: IScores;
  smoothing: number;
  trans: TranslationBundle;
}

/** The scores of the answers: the base model beside the last step, and the steps between. */
export function Scores({ scores, smoothing, trans }: IScoresProps): React.ReactElement | null {
  const { tables, charts } = scores;
  if (!tables.length) {
    return null;
  }
  return (
    <>
      <h2>{trans.__('Scores')}</h2>
      {tables.map(({ name, caption, head, rows }) => (
        <div
          key={name}
          className="nbft-scroll"
          tabIndex={0}
          role="group"
          aria-label={trans.__('Scores of %1', name)}
        >
          <table className="nbft-settings">
            <caption>{caption}</caption>
            <thead>
              <tr>
                {head.map(title => (
                  <th key={title} scope="col">
                    {title}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows.map(([label, ...cells]) => (
                <tr key={label}>
                  <th scope="row">{label}</th>
                  {cells.map((cell, i) => (
                    <td key={i}>{cell}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ))}
      <div className="nbft-charts">
        {charts.map(chart => (
          <Chart key={chartKey(chart)} {...drawing(chart)} smoothing={smoothing} trans={trans} />
        ))}
      </div>
    </>
  );
}

interface IAnswersProps {
  answers: IAnswers[];
  trans: TranslationBundle;
}

/** The answers to the same prompts, step by step; each prompt is expanded on request. */
export function Answers({ answers, trans }: IAnswersProps): React.ReactElement | null {
  if (!answers.length) {
    return null;
  }
  return (
    <>
      <h2>{trans.__('Answers')}</h2>
      {answers.map(({ title, prompt, answers }) => (
        <details key={prompt} className="nbft-answers">
          <summary>{title}</summary>
          <p>{prompt}</p>
          <table className="nbft-settings">
            <tbody>
              {answers.map(({ when, text }) => (
                <tr key={when}>
                  <th scope="row">{when}</th>
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
