typedef int em_empty_attention;
