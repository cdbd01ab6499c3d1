import { expect, test } from 'vitest';

import { listArgument, textArgument } from '../src/commands';

test.each([undefined, null, '', 3, ['a'], { id: 'a' }])('%o is no text', value => {
  expect(textArgument({ id: value }, 'id')).toBeUndefined();
});

test.each([undefined, null, 'a', 3, ['a', 3], [null], { 0: 'a' }])('%o is no list', value => {
  expect(listArgument({ ids: value }, 'ids')).toBeUndefined();
});

test('what fits is returned', () => {
  expect(textArgument({ id: 'a' }, 'id')).toBe('a');
  expect(listArgument({ ids: ['a', 'b'] }, 'ids')).toEqual(['a', 'b']);
});
