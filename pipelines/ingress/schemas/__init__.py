"""The bodies that go in and out over HTTP, in OpenAI's shapes. Knows no pipelines and decides nothing beyond a field's
form."""
