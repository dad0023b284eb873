/* From the reset of a Cortex-M to main(), with the files and the standard output of the host (semihosting). */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t data_in_flash[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];
extern void initialise_monitor_handles(void); /* newlib's: opens the three standard files of the host */
extern int main(void);

void reset(void)
{
    const uint32_t *from = data_in_flash;
#ifdef __ARM_FP
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the floating-point unit is off after a reset */
    __asm__ volatile("dsb\n\tisb");
#endif
    for (uint32_t *to = data_begin; to < data_end; ++to)
        *to = *from++;
    for (uint32_t *to = bss_begin; to < bss_end; ++to)
        *to = 0;
    initialise_monitor_handles();
    exit(main());
}

void _init(void); /* newlib's exit() asks for both; there are no constructors */
void _fini(void);
void _init(void) {}
void _fini(void) {}

static void fault(void)
{
    exit(70);
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))(uintptr_t)stack_top, reset, fault, fault, fault, fault, fault,
};
