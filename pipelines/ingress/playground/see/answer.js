// One answer of a chat, as its chunks come: text, thoughts, calls, how it ended, and the message that it is in the conversation after it.
// Knows nothing of the page.

export class Answer {
  text = "";
  thoughts = "";
  calls = []; // { id, name, arguments }
  finish = null;
  usage = null;
  receipt = null;

  // Whether it had anything that is shown.
  take(chunk) {
    const choice = chunk.choices[0];
    this.finish = choice?.finish_reason ?? this.finish;
    this.usage = chunk.usage ?? this.usage;
    this.receipt = chunk.triptych ?? this.receipt;
    const { content, reasoning_content: thought, tool_calls: calls } = choice?.delta ?? {};
    this.text += content ?? "";
    this.thoughts += thought ?? "";
    for (const call of calls ?? []) this.#takeCall(call);
    return Boolean(content || thought || calls?.length);
  }

  #takeCall({ index, id, function: called }) {
    const call = (this.calls[index] ??= { id: "", name: "", arguments: "" });
    call.id = id ?? call.id;
    call.name += called?.name ?? "";
    call.arguments += called?.arguments ?? "";
  }

  get isEmpty() {
    return !this.text && !this.thoughts && !this.calls.length;
  }

  // Half a call is none; it stays where it is drawn.
  keepWholeCalls() {
    if (!["tool_calls", "stop"].includes(this.finish)) this.calls = [];
  }

  // Thoughts go back too: templates that show them again want them.
  message() {
    const said = { role: "assistant", content: this.calls.length && !this.text ? null : this.text };
    if (this.thoughts) said.reasoning_content = this.thoughts;
    if (this.calls.length) said.tool_calls = this.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
    return said;
  }
}
