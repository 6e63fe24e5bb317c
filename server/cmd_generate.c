typedef int em_empty_cmd_generate;
