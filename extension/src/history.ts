import { Api, IAnswers, IChart, IScores, ISeries, JsonNumber } from './api';

/** A chart with all its rows: [x, value of each series…]; NaN where there is none. */
export interface IDrawing {
  title: string;
  series: ISeries[];
  rows: number[][];
}

/** Tells charts apart; another one as soon as a curve is added. */
export function chartKey({ title, series }: Pick<IChart, 'title' | 'series'>): string {
  return [title, ...series.map(({ name }) => name)].join(' ');
}

/** What there is to draw of one run, fetched piece by piece. */
export class History {
  constructor(
    private readonly _api: Api,
    private readonly _id: string
  ) {}

  charts: IDrawing[] = [];
  smoothing = 0;
  notes: string[] = [];
  scores: IScores = { tables: [], charts: [] };
  answers: IAnswers[] = [];

  /** How many events there are other than measurements of the training. */
  said = 0;

  /** Fetch what is new. */
  async refresh(): Promise<void> {
    let more = true;
    while (more) {
      const state = await this._api.state(this._id, this._next);
      const before = state.whole ? [] : this.charts;
      this.charts = state.charts.map((chart, i) => extended(before[i], chart));
      this.smoothing = state.smoothing;
      this.notes = state.notes ?? this.notes;
      this.scores = state.scores ?? this.scores;
      this.answers = state.answers ?? this.answers;
      this.said = state.said;
      this._next = state.next;
      more = state.more;
    }
  }

  private _next = '';
}

/** A chart as the drawing takes it. */
export function drawing({ title, series, rows }: IChart): IDrawing {
  return { title, series, rows: rows.map(row => row.map(number)) };
}

/** A chart with new rows, which replace those from the step of the first of them on. */
export function extended(before: IDrawing | undefined, chart: IChart): IDrawing {
  if (before && !chart.rows.length) {
    return before;
  }
  const added = drawing(chart);
  const kept = before?.rows ?? [];
  let end = kept.length;
  while (end && kept[end - 1][0] >= added.rows[0][0]) {
    end--;
  }
  return { ...added, rows: kept.slice(0, end).concat(added.rows) };
}

function number(value: JsonNumber): number {
  return value === null ? NaN : Number(value);
}
