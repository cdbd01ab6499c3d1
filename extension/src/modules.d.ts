// What is imported beside TypeScript.

declare module '*.svg' {
  const source: string;
  export default source;
}

declare module '*/package.json' {
  export const version: string;
}

// The live chart and its numbers are JavaScript that anywidget loads as it is.
declare module '*/chart/chart.js' {
  const chart: () => {
    initialize(given: { model: unknown }): () => void;
    render(given: { model: unknown; el: HTMLElement }): () => void;
  };
  export default chart;
}

declare module '*/chart/numbers.js' {
  export function position(x: number): string;
  export function reading(value: number): string;
}
