/** Every command of the extension. */
export namespace CommandIDs {
  export const newNotebook = 'nbft:new-notebook';
  export const showRuns = 'nbft:show-runs';
  export const openRun = 'nbft:open-run';
  export const compareRuns = 'nbft:compare-runs';
}
