/* A JavaScript interpreter: QuickJS with `print`. `js` runs the script on standard input; what follows the name is the
 * script's `args`. Its core is one function of many thousand instructions with one dispatch. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quickjs.h"

static JSValue print(JSContext *context, JSValueConst self, int count, JSValueConst *values) {
    for (int i = 0; i < count; i++) {
        const char *text = JS_ToCString(context, values[i]);
        if (!text) return JS_EXCEPTION;
        printf(i ? " %s" : "%s", text);
        JS_FreeCString(context, text);
    }
    putchar('\n');
    fflush(stdout);
    return JS_UNDEFINED;
}

static void report(JSContext *context) {
    JSValue error = JS_GetException(context);
    const char *text = JS_ToCString(context, error);
    fprintf(stderr, "js: %s\n", text ? text : "an exception without a text");
    JS_FreeCString(context, text);
    JS_FreeValue(context, error);
}

static char *read_all(FILE *file, size_t *length) {
    size_t room = 4096;
    char *text = malloc(room);
    *length = 0;
    while (text) {
        *length += fread(text + *length, 1, room - *length - 1, file);
        if (*length < room - 1) break;
        text = realloc(text, room *= 2);
    }
    if (text) text[*length] = 0;
    return text;
}

int main(int argc, char **argv) {
    size_t length;
    char *script = read_all(stdin, &length);
    JSRuntime *runtime = JS_NewRuntime();
    JSContext *context = runtime ? JS_NewContext(runtime) : NULL;
    if (!script || !context) {
        fputs("js: out of memory\n", stderr);
        return 1;
    }
    JSValue global = JS_GetGlobalObject(context);
    JSValue args = JS_NewArray(context);
    for (int i = 1; i < argc; i++) JS_SetPropertyUint32(context, args, (uint32_t)(i - 1), JS_NewString(context, argv[i]));
    JS_SetPropertyStr(context, global, "args", args);
    JS_SetPropertyStr(context, global, "print", JS_NewCFunction(context, print, "print", 1));
    JS_FreeValue(context, global);

    JSValue result = JS_Eval(context, script, length, "<stdin>", JS_EVAL_TYPE_GLOBAL);
    int failed = JS_IsException(result);
    /* What promises still have to do. */
    JSContext *job;
    int more;
    while (!failed && (more = JS_ExecutePendingJob(runtime, &job)) != 0) failed = more < 0;
    if (failed) report(context);
    JS_FreeValue(context, result);
    JS_FreeContext(context);
    JS_FreeRuntime(runtime);
    free(script);
    return failed;
}
