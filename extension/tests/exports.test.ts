import { nullTranslator } from '@jupyterlab/translation';
import { describe, expect, it, test } from 'vitest';

import { IExportFormat } from '../src/api';
import { choice, exportRequest, uploadQuestion, USUAL } from '../src/exports';

const trans = nullTranslator.load('nbft');

const gguf: IExportFormat = {
  name: 'gguf',
  title: 'GGUF file',
  about: 'For llama.cpp.',
  options: ['dtype'],
  choices: [
    { dtype: 'bfloat16', offer: 'Export as GGUF (bfloat16)', is_usual: true },
    { dtype: 'q8_0', offer: 'Export as GGUF (q8_0), about 136 MiB', is_usual: false }
  ],
  folder: 'calm-crane-7-gguf',
  problem: ''
};
const merged = { ...gguf, name: 'merged', options: ['dtype', 'max_shard_size'] };
const adapter = {
  ...gguf,
  name: 'adapter',
  options: [],
  choices: [{ dtype: '', offer: 'Export as adapter', is_usual: true }]
};
const hub = { ...gguf, name: 'hub', options: ['repo_id', 'private', 'adapter', 'dtype'] };

test('the usual number type is chosen until another of the format is', () => {
  expect(choice(gguf).dtype).toBe('bfloat16');
  expect(choice(gguf, 'q8_0').offer).toContain('136 MiB');
  expect(choice(gguf, 'float32').dtype).toBe('bfloat16');
});

describe('a request', () => {
  it('has only what the format uses', () => {
    expect(exportRequest(gguf, { ...USUAL, dtype: 'q8_0' })).toEqual({
      to: 'gguf',
      folder: 'calm-crane-7-gguf',
      dtype: 'q8_0'
    });
    expect(exportRequest(merged, { ...USUAL, folder: 'mine' })).toEqual({
      to: 'merged',
      folder: 'mine',
      dtype: 'bfloat16',
      max_shard_size: '5GB'
    });
    expect(exportRequest(adapter, USUAL)).toEqual({ to: 'adapter', folder: 'calm-crane-7-gguf' });
  });

  it('names a repository, and no number type of an adapter', () => {
    const about = { to: 'hub', folder: 'calm-crane-7-gguf', repo_id: 'me/x', private: true };
    expect(exportRequest(hub, { ...USUAL, repo_id: ' me/x ' })).toEqual({
      ...about,
      dtype: 'bfloat16',
      adapter: false
    });
    expect(exportRequest(hub, { ...USUAL, repo_id: 'me/x', adapter: true })).toEqual({
      ...about,
      adapter: true
    });
  });
});

test('only an upload is asked about, with what is uploaded and who sees it', () => {
  expect(uploadQuestion('calm-crane-7', { to: 'gguf' }, trans)).toBe('');
  const request = { to: 'hub', repo_id: 'me/x', private: true, adapter: false };
  expect(uploadQuestion('calm-crane-7', request, trans)).toBe(
    'The merged model of calm-crane-7 is uploaded to huggingface.co/me/x, for you alone.'
  );
  expect(uploadQuestion('calm-crane-7', { ...request, private: false, adapter: true }, trans)).toBe(
    'The adapter of calm-crane-7 is uploaded to huggingface.co/me/x, for everybody.'
  );
});
