"""The worker: it reads a run's config, trains, and writes events. Imports torch lazily."""
