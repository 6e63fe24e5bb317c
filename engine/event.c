typedef int em_empty_event;
