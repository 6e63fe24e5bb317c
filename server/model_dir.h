/* Where the model lies, and what of the configuration the engine wants to know. */
#ifndef EM_SERVER_MODEL_DIR_H
#define EM_SERVER_MODEL_DIR_H

#include "engine/engine.h"
#include "server/config.h"

/* `given`, or when empty the model that comes with the program: beside the build tree of the executable, then in the
 * install prefix. Caller frees. -ENOENT with a sentence when there is none. */
int em_model_dir_find(const char *given, char **ret_dir, em_error *err);

/* The last part of the path: the name under which a model is served when nobody says another. */
void em_model_dir_name(const char *dir, char *buf, size_t cap);

/* `default_thinking` in the folder's generation_config.json; true when the file or the field is missing. Whether the
 * model can reason at all is another question. -EINVAL with a sentence when the file is malformed. */
int em_model_dir_thinks(const char *dir, bool *ret_thinks, em_error *err);

/* Everything but the progress callback; texts stay with c and model_dir. */
void em_config_engine_opts(const em_config *c, const char *model_dir, em_engine_opts *ret_opts);

#endif
