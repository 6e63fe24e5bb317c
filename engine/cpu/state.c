typedef int em_empty_state;
