import { ReadonlyPartialJSONObject } from '@lumino/coreutils';

/** The commands of the extension. */
export namespace CommandIDs {
  export const newNotebook = 'nbft:new-notebook';
  export const showRuns = 'nbft:show-runs';
  export const openRun = 'nbft:open-run';
  export const compareRuns = 'nbft:compare-runs';
}

// Anybody may execute a command with any arguments: the palette gives none, and a shortcut or
// another extension what it likes. What does not fit counts as not given.

/** An argument that is a non-empty string. */
export function textArgument(args: ReadonlyPartialJSONObject, name: string): string | undefined {
  const value = args[name];
  return typeof value === 'string' && value ? value : undefined;
}

/** An argument that is a list of strings. */
export function listArgument(args: ReadonlyPartialJSONObject, name: string): string[] | undefined {
  const value = args[name];
  const isList = Array.isArray(value) && value.every(item => typeof item === 'string');
  return isList ? value : undefined;
}
