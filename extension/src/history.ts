import { Api, IEvent } from './api';

/** Kinds of events that a run which goes on from a checkpoint does again. */
const OF_A_STEP = new Set(['log', 'eval', 'scores', 'sample', 'checkpoint', 'note']);

/** The events of one run, fetched piece by piece. */
export class History {
  constructor(
    private readonly _api: Api,
    readonly id: string
  ) {}

  get events(): readonly IEvent[] {
    return this._events;
  }

  /** Fetch what is new. */
  async refresh(): Promise<void> {
    let more = true;
    while (more) {
      const piece = await this._api.events(this.id, this._next);
      if (piece.after !== this._next) {
        this._events = []; // the file is another one
      }
      piece.events.forEach(event => this._take(event));
      this._next = piece.next;
      more = piece.more;
    }
  }

  /** The points [x, value of each field…] of the events that hold one of some fields. */
  points(fields: string[]): number[][] {
    const rows = new Map<number, number[]>();
    for (const event of this._events) {
      if (event.event === 'log' || event.event === 'eval') {
        fields.forEach((field, i) => {
          if (event[field] !== undefined) {
            const step = event['step'] as number;
            const row = rows.get(step) ?? [step, ...fields.map(() => NaN)];
            row[i + 1] = Number(event[field]);
            rows.set(step, row);
          }
        });
      }
    }
    return [...rows.values()].sort((a, b) => a[0] - b[0]);
  }

  private _take(event: IEvent): void {
    if (event.event === 'prepared' && typeof event['resumed_step'] === 'number') {
      const last = event['resumed_step'];
      this._events = this._events.filter(
        one => !OF_A_STEP.has(one.event) || ((one['step'] as number) ?? 0) <= last
      );
    }
    this._events.push(event);
  }

  private _events: IEvent[] = [];
  private _next = 0;
}
