/* The text of a small tokenizer.json made piece by piece, so that a test can spoil any piece. */
#ifndef EM_TESTS_TINY_TOKENIZER_H
#define EM_TESTS_TINY_TOKENIZER_H

#include "engine/base/buf.h"
#include "engine/base/utf8.h"

#define TINY_SPLIT(regex)                                                                                              \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define TINY_NUMBERS TINY_SPLIT("\\\\p{N}{1,3}")
#define TINY_CJK TINY_SPLIT("[一-龥぀-ゟ゠-ヿ]+")
#define TINY_WORDS                                                                                                     \
    TINY_SPLIT("[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?"  \
               "[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\r\\n]*|\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+")
#define TINY_BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define TINY_SEQUENCE(steps) "{\"type\":\"Sequence\",\"pretokenizers\":[" steps "]}"

/* Ids 0..255 are the bytes in order; a NULL piece takes its default. */
typedef struct tiny_tokenizer {
    const char *vocab;          /* more members, with a comma in front; none */
    const char *merges;         /* elements; none */
    const char *added;          /* elements; none */
    const char *normalizer;     /* value; null */
    const char *pre_tokenizer;  /* value; that of the family */
    const char *post_processor; /* value; null */
    const char *decoder;        /* value; ByteLevel */
    const char *model;          /* more members of model, with a comma in front; none */
    const char *top;            /* more members of the file, with a comma in front; none */
    int skip_byte;              /* 1..255: this byte gets no token; 0: all do */
} tiny_tokenizer;

/* The character of the byte alphabet for b. */
static inline uint32_t tiny_alphabet(int b)
{
    int other = 0x100;
    for (int i = 0; i <= b; i++) {
        int prints = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
        if (i == b)
            return (uint32_t)(prints ? b : other);
        other += !prints;
    }
    return 0;
}

static inline void tiny_write(const tiny_tokenizer *t, em_buf *out)
{
    em_buf_printf(out, "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\"%s,\"vocab\":{", t->model ? t->model : "");
    int written = 0;
    for (int b = 0; b < 256; b++) {
        uint8_t c[4];
        int n = em_utf8_encode(tiny_alphabet(b), c);
        if (t->skip_byte && b == t->skip_byte)
            continue;
        em_buf_puts(out, written++ ? "," : "");
        em_buf_json_string(out, (const char *)c, (size_t)n);
        em_buf_printf(out, ":%d", b);
    }
    em_buf_printf(out, "%s},\"merges\":[%s]},\"added_tokens\":[%s],", t->vocab ? t->vocab : "",
                  t->merges ? t->merges : "", t->added ? t->added : "");
    em_buf_printf(out, "\"normalizer\":%s,\"pre_tokenizer\":%s,", t->normalizer ? t->normalizer : "null",
                  t->pre_tokenizer ? t->pre_tokenizer
                                   : TINY_SEQUENCE(TINY_NUMBERS "," TINY_CJK "," TINY_WORDS "," TINY_BYTE_LEVEL));
    em_buf_printf(out, "\"post_processor\":%s,\"decoder\":%s%s}", t->post_processor ? t->post_processor : "null",
                  t->decoder ? t->decoder : "{\"type\":\"ByteLevel\"}", t->top ? t->top : "");
}

#endif
