typedef int em_empty_config;
