"""The HTTP surface: OpenAI's routes and bodies over `pipelines.jobs.Service`. FastAPI appears here only."""
