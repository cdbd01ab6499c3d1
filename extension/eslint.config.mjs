import eslint from '@eslint/js';
import prettier from 'eslint-config-prettier';
import react from 'eslint-plugin-react';
import reactHooks from 'eslint-plugin-react-hooks';
import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

export default defineConfig([
  globalIgnores(['lib/', 'node_modules/']),
  eslint.configs.recommended,
  {
    files: ['**/*.{ts,tsx}'],
    extends: [
      tseslint.configs.recommendedTypeChecked,
      tseslint.configs.stylistic,
      react.configs.flat.recommended,
      reactHooks.configs.flat['recommended-latest']
    ],
    languageOptions: { parserOptions: { projectService: true } },
    settings: { react: { version: '18' } },
    rules: {
      // JupyterLab's conventions: I before interfaces, command ids in a namespace, signals that
      // bind the receiver themselves.
      '@typescript-eslint/naming-convention': [
        'error',
        { selector: 'interface', format: ['PascalCase'], prefix: ['I'] }
      ],
      '@typescript-eslint/no-namespace': 'off',
      '@typescript-eslint/unbound-method': 'off',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      'no-console': 'error'
    }
  },
  {
    files: ['chart/*.js'],
    languageOptions: { globals: { document: 'readonly' } },
    rules: { 'no-undef': 'off', 'no-console': 'error' } // tsc checks these files, types included
  },
  prettier
]);
