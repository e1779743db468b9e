"""What every counter of a stage means, in a line, for who reads /metrics. `StageMetrics` in `stages/contract/item.py` says more."""

HELP = {
    "queued": "Items that wait to run.",
    "queued_tenants": "Tenants whose items wait to run.",
    "preparing": "Items that are being prepared, of those that wait.",
    "running": "Items in the batch or the rows that run now.",
    "waiting_for_inputs": "Items that wait for other stages' results, or for pages.",
    "outstanding_amount": "What is left to do of all that waits or runs, in the stage's unit of work.",
    "outstanding_steps": "Steps that are left to do of all that waits or runs.",
    "outstanding_seconds": "How long the device will be busy with what waits and runs; 0 while nobody knows.",
    "batch_bound_items": "How many items a batch may hold now.",
    "batch_bound_cost": "How much work a batch may hold now.",
    "items": "Items that were accepted, however they ended.",
    "batches": "Batches and steps that ran.",
    "batch_items": "Items in all batches and steps: of each, once for every one that it was in.",
    "steps": "Steps of an iterative stage.",
    "device_seconds": "Time that the device was busy with this stage.",
    "continued": "Items that went on with what another replica had begun to answer.",
    "cancelled": "Items whose requester went away.",
    "failed": "Items that failed.",
    "expired": "Items whose deadline passed.",
    "rejected": "Items that found the queue full.",
    "preempted": "Rows that made way for others and went on later.",
    "preempted_for_others": "Rows that made way for a tenant that had fewer.",
    "let_in_beyond": "Items that a full queue took in, because their tenant had less than its part of it.",
    "out_of_memory": "Batches that did not fit into the device's memory.",
    "missing_inputs": "How often an item had to wait for inputs after all.",
    "speed_factor": "How many times as long steps take as the profile says.",
    "finish_margin": "Of twenty items nineteen take at most so many times what was expected.",
    "step_expected_seconds": "What the cost model said that steps would take.",
    "step_taken_seconds": "What steps took.",
    "step_error_seconds": "By how much the two differed.",
    "finish_expected_seconds": "What was expected of items when they came.",
    "finish_taken_seconds": "What they took.",
    "finish_error_seconds": "By how much the two differed.",
    "cache_misses": "Results that were nowhere remembered.",
    "cache_joined": "Results that somebody else was already making.",
    "cache_waits": "How often another process was making the same result, and was waited for.",
    "cache_wait_seconds": "How long that was waited for.",
    "page_misses": "Pages of newcomers' beginnings that had to be computed.",
    "page_bytes_fetched": "Bytes of pages from far tiers.",
    "page_fetches_chosen": "Fetches of pages that were expected to be faster than computing.",
    "page_fetches_declined": "Fetches left undone, since computing was expected to be faster.",
    "page_fetches_refused": "Fetches left undone, since too much waited or was held already.",
    "page_fetches_failed": "Fetches of which nothing came.",
    "page_wait_seconds": "How long items waited to hear where pages are, and for pages.",
    "page_fetch_seconds": "How long items waited for pages.",
    "page_fetch_error_seconds": "By how much that differed from what was expected.",
    "page_bytes_in_flight": "Bytes of pages that items hold which have not started.",
    "page_compute_seconds": "What a page is expected to take to compute; 0: nobody knows.",
    "page_failures": "How often the stage failed over pages; no request did.",
    "page_bytes_writing": "Bytes of pages that wait to be written.",
    "page_bytes_exported": "Bytes of pages handed to the cache.",
    "pages_exported": "Pages handed to the cache.",
    "pages_dropped": "Pages that came faster than they could be written.",
    "process_memory_bytes": "Resident memory of the replica's process.",
    "event_loop_tasks": "What runs or waits on the event loop of the replica's process.",
    "device_memory_used_bytes": "Memory of the device that is in use, by whomever.",
    "device_memory_total_bytes": "Memory that the device has.",
    "queue_seconds": "Of items, from submission to the first batch or step that they are in.",
    "item_seconds": "Of items that came to a good end, from submission to it.",
    "step_seconds": "How long batches and steps took.",
    "batch_size": "Of how many items batches and steps were.",
    "first_event_seconds": "From when an item came to its first event.",
    "between_events_seconds": "From one event of an item to its next.",
    "time_to_first_token_seconds": "From when an answer was asked of the stage to its first token, with all that it waited for.",
    "inter_token_seconds": "From one token of an answer to its next.",
}
OF_CACHES = {
    "hits_total": "Values found there.",
    "misses_total": "Values not found there.",
    "puts_total": "Values written there.",
    "put_bytes_total": "Bytes of values written there.",
    "dropped_total": "Values that came faster than they could be written.",
    "corrupt_total": "Values that did not check, and were deleted.",
    "errors_total": "Failed exchanges; each was a miss.",
    "evictions_total": "Values that made room for others.",
    "memory_bytes": "Bytes of values in memory.",
    "opened_total": "How often it stopped answering.",
    "down": "1 where it does not answer and is left alone for now.",
}
"""By the end of their names: the middle is a tier's and a kind's."""


def help_of(counter: str) -> str:
    known = HELP.get(counter.removesuffix("_total"))
    if known is not None:
        return known
    if counter.startswith(("cache_hits_", "page_hits_")):
        tier = counter.removesuffix("_total").rpartition("_")[2]
        return f"{'Results' if counter.startswith('cache') else 'Pages'} found in {tier}."
    ends = [told for end, told in OF_CACHES.items() if counter.endswith(end)]
    return ends[0] if ends else f"{counter.removesuffix('_total').replace('_', ' ')} of a stage."
