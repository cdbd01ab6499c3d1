import * as React from 'react';

import { IAnswers, IScores } from './api';
import { Chart } from './curves';
import { drawing } from './history';

interface IScoresProps {
  scores: IScores;
  smoothing: number;
}

/** What was measured of the answers: the base model beside the last step, and the way there. */
export function Scores({ scores, smoothing }: IScoresProps): React.ReactElement | null {
  const { tables, charts } = scores;
  if (!tables.length) {
    return null;
  }
  return (
    <>
      <h2>Scores</h2>
      {tables.map(({ name, caption, head, rows }) => (
        <div
          key={name}
          className="nbft-scroll"
          tabIndex={0}
          role="group"
          aria-label={`Scores of ${name}`}
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
          <Chart
            key={`${chart.title} ${chart.series.map(({ name }) => name)}`}
            {...drawing(chart)}
            smoothing={smoothing}
          />
        ))}
      </div>
    </>
  );
}

/** The answers to the same prompts, step by step; each prompt is unfolded on request. */
export function Answers({ answers }: { answers: IAnswers[] }): React.ReactElement | null {
  if (!answers.length) {
    return null;
  }
  return (
    <>
      <h2>Answers</h2>
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
